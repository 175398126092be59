//! The environment, as templates, secret files and orchestrators fill it.

use std::{
    collections::BTreeSet,
    env,
    ffi::{OsStr, OsString},
    os::unix::ffi::{OsStrExt as _, OsStringExt as _},
};

use clap::{Arg, Command, error::ErrorKind};

/// The beginning of the names of Weir's variables.
const PREFIX: &str = "WEIR_";

/// The variables of the tests, which a server in a test sees too.
const TEST_PREFIX: &str = "WEIR_TEST_";

/// The similarity from which on a name counts as misspelled, from 0 to 1.
const MIN_SIMILARITY: f64 = 0.85;

/// The variables of `weir serve` without which a protection is missing or weaker. A template or a secret that
/// leaves one of them empty must not start a server without the protection.
const PROTECTIONS: [&str; 19] = [
    "WEIR_TLS_CERT_FILE",
    "WEIR_TLS_KEY_FILE",
    "WEIR_TLS_CLIENT_CA_FILE",
    "WEIR_JWKS_URL",
    "WEIR_JWKS_FILE",
    "WEIR_JWKS_CA_FILE",
    "WEIR_JWT_ISSUER",
    "WEIR_JWT_AUDIENCE",
    "WEIR_JWT_ALGORITHMS",
    "WEIR_API_KEYS_FILE",
    "WEIR_AUTH_CERTIFICATES",
    "WEIR_POLICY_FILE",
    "WEIR_TOKEN_KEY_FILE",
    "WEIR_ADMIN_TOKEN_FILE",
    "WEIR_MAX_WATCHES_PER_PRINCIPAL",
    "WEIR_WATCH_RATE_PER_PRINCIPAL",
    "WEIR_WATCH_RATE",
    "WEIR_BYTE_RATE_PER_PRINCIPAL",
    "WEIR_BYTE_RATE",
];

/// The variable of the rule for client certificates, with the value that holds without it. A template may
/// spell it out for servers without TLS.
const CLIENT_AUTH: (&str, &str) = ("WEIR_TLS_CLIENT_AUTH", "required");

/// A variable that begins like Weir's and that no command reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownVariable {
    /// Its name.
    pub name: String,
    /// The most similar variable that a command reads, if the name looks like a misspelling of it.
    pub nearest: Option<String>,
}

/// Returns the command with the variables as they are meant: an empty variable is unset, line breaks at the
/// end of a value don't count, and a default that is spelled out is the default. So it does not count as
/// given, and needs no other setting beside it. [`check_protections`] refuses some empty variables before.
#[must_use]
pub fn normalize(command: Command) -> Command {
    let with_arguments = command.mut_args(normalize_variable);
    let names: Vec<String> = with_arguments
        .get_subcommands()
        .map(|it| it.get_name().to_owned())
        .collect();
    names.into_iter().fold(with_arguments, |command, name| {
        command.mut_subcommand(name, normalize)
    })
}

/// Checks that no variable of a protection is empty, unless `arguments` give its flag, and that a server with
/// TLS does not get the rule for client certificates without their authority.
///
/// # Errors
/// The first such variable, with what to do.
pub fn check_protections(command: &Command, arguments: &[OsString]) -> Result<(), clap::Error> {
    let is_empty = |variable: &OsStr| {
        env::var_os(variable).is_some_and(|value| trim_line_breaks(&value).is_empty())
    };
    for arg in command.get_arguments() {
        let (Some(variable), Some(flag)) = (arg.get_env(), arg.get_long()) else {
            continue;
        };
        let is_protection = PROTECTIONS.iter().any(|it| variable == *it);
        if is_protection && is_empty(variable) && !is_given(flag, arguments) {
            let variable = variable.display();
            let problem = format!(
                "the variable {variable} is empty: unset it, or give the value of --{flag}\n"
            );
            return Err(clap::Error::raw(ErrorKind::InvalidValue, problem));
        }
    }
    let has = |variable: &str, flag| env::var_os(variable).is_some() || is_given(flag, arguments);
    let encrypts = has("WEIR_TLS_CERT_FILE", "tls-cert-file");
    if names_client_auth() && encrypts && !has("WEIR_TLS_CLIENT_CA_FILE", "tls-client-ca-file") {
        let variable = CLIENT_AUTH.0;
        let problem = format!(
            "the variable {variable} has no effect without --tls-client-ca-file: add that, or unset it\n"
        );
        return Err(clap::Error::raw(
            ErrorKind::MissingRequiredArgument,
            problem,
        ));
    }
    Ok(())
}

/// Returns whether the environment has a rule for client certificates.
#[must_use]
pub fn names_client_auth() -> bool {
    env::var_os(CLIENT_AUTH.0).is_some_and(|value| !trim_line_breaks(&value).is_empty())
}

fn is_given(flag: &str, arguments: &[OsString]) -> bool {
    arguments.iter().any(|argument| {
        let name = argument.as_bytes().strip_prefix(b"--");
        let rest = name.and_then(|it| it.strip_prefix(flag.as_bytes()));
        rest.is_some_and(|it| it.is_empty() || it[0] == b'=')
    })
}

fn normalize_variable(arg: Arg) -> Arg {
    let Some(value) = arg.get_env().and_then(env::var_os) else {
        return arg;
    };
    let trimmed = trim_line_breaks(&value);
    let is_off = !arg.get_action().takes_values() && trimmed == "false";
    if trimmed.is_empty() || is_off || is_default(&arg, trimmed) {
        arg.env(None)
    } else if trimmed.len() < value.len() {
        // The help must not show it as the default, as it may be a secret. The process needs it to its end.
        let trimmed: &'static OsStr = trimmed.to_owned().leak();
        arg.env(None)
            .default_value(trimmed)
            .hide_default_value(true)
            .required(false)
    } else {
        arg
    }
}

fn is_default(arg: &Arg, value: &OsStr) -> bool {
    let (variable, rule) = CLIENT_AUTH;
    let is_rule = arg.get_env().is_some_and(|it| it == variable) && value == rule;
    is_rule || matches!(arg.get_default_values(), [default] if default.as_os_str() == value)
}

/// Returns the value without the line breaks at its end.
fn trim_line_breaks(value: &OsStr) -> &OsStr {
    let mut bytes = value.as_bytes();
    while let [rest @ .., b'\n' | b'\r'] = bytes {
        bytes = rest;
    }
    OsStr::from_bytes(bytes)
}

/// Returns the arguments of a command line without the line breaks at their ends: they come with values that
/// an orchestrator puts in from variables.
pub fn trimmed(arguments: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    arguments
        .into_iter()
        .map(|argument| {
            let length = trim_line_breaks(&argument).len();
            let mut bytes = argument.into_vec();
            bytes.truncate(length);
            OsString::from_vec(bytes)
        })
        .collect()
}

/// Returns the variables that begin like Weir's and that neither `command` nor a subcommand of it reads, and
/// that Kubernetes does not set for a service. In the order of their names.
#[must_use]
pub fn unknown_variables(command: &Command) -> Vec<UnknownVariable> {
    let variables = env::vars_os().filter_map(|(name, value)| {
        Some((
            name.into_string().ok()?,
            value.to_string_lossy().into_owned(),
        ))
    });
    unknown(&variable_names(command), variables)
}

fn unknown(
    known: &BTreeSet<String>,
    variables: impl Iterator<Item = (String, String)>,
) -> Vec<UnknownVariable> {
    let mut names: Vec<String> = variables
        .filter(|(name, value)| {
            name.starts_with(PREFIX)
                && !name.starts_with(TEST_PREFIX)
                && !known.contains(name)
                && !is_service_variable(name, value)
        })
        .map(|(name, _)| name)
        .collect();
    names.sort();
    names
        .into_iter()
        .map(|name| UnknownVariable {
            nearest: nearest(known, &name).map(str::to_owned),
            name,
        })
        .collect()
}

fn nearest<'a>(known: &'a BTreeSet<String>, name: &str) -> Option<&'a str> {
    // Without the beginning that all share, and which would make all similar.
    let rest = |name: &str| name.trim_start_matches(PREFIX).to_ascii_uppercase();
    let written = rest(name);
    let similarity = |known: &str| strsim::normalized_damerau_levenshtein(&rest(known), &written);
    known
        .iter()
        .map(|it| {
            (
                similarity(it).max(strsim::jaro_winkler(&rest(it), &written)),
                it.as_str(),
            )
        })
        .filter(|(similarity, _)| *similarity >= MIN_SIMILARITY)
        .max_by(|one, other| one.0.total_cmp(&other.0))
        .map(|(_, name)| name)
}

fn variable_names(command: &Command) -> BTreeSet<String> {
    let own = command.get_arguments().filter_map(Arg::get_env);
    let own = own.map(|name| name.to_string_lossy().into_owned());
    let below = command.get_subcommands().flat_map(variable_names);
    own.chain(below).collect()
}

/// Returns whether Kubernetes sets such a variable for a service whose name begins with `weir`: `WEIR_PORT`,
/// for example, and `WEIR_METRICS_SERVICE_HOST` (its manual, "Discovering services").
fn is_service_variable(name: &str, value: &str) -> bool {
    let is_url = ["tcp://", "udp://", "sctp://"]
        .iter()
        .any(|scheme| value.starts_with(scheme));
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|it| it.is_ascii_digit());
    let parts: Vec<&str> = name.split('_').collect();
    match &parts[..] {
        [.., "SERVICE", "HOST"] => true,
        [.., "SERVICE", "PORT"] => is_number(value),
        // The port's number follows in a longer name.
        [.., "PORT"] => is_url || is_number(value) && has_port_number(&parts),
        [.., "TCP" | "UDP" | "SCTP"] => is_url,
        [.., "PROTO" | "ADDR"] => has_port_number(&parts),
        // The name of the port follows.
        _ => name.contains("_SERVICE_PORT_") && is_number(value),
    }
}

/// Returns whether a name has a part such as `PORT_50051_TCP`.
fn has_port_number(parts: &[&str]) -> bool {
    parts.windows(3).any(|window| {
        matches!(window, ["PORT", number, "TCP" | "UDP" | "SCTP"]
            if number.bytes().all(|it| it.is_ascii_digit()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(known: &[&str], variables: &[(&str, &str)]) -> Vec<(String, Option<String>)> {
        let known = known.iter().map(|&it| it.to_owned()).collect();
        let variables = variables
            .iter()
            .map(|&(name, value)| (name.to_owned(), value.to_owned()));
        unknown(&known, variables)
            .into_iter()
            .map(|it| (it.name, it.nearest))
            .collect()
    }

    #[test]
    fn a_misspelled_variable_comes_with_the_nearest_one() {
        let known = [
            "MONGODB_URI",
            "WEIR_LISTEN",
            "WEIR_MAX_FEEDS",
            "WEIR_MAX_WATCHES",
            "WEIR_TLS_CERT_FILE",
            "WEIR_TLS_KEY_FILE",
        ];
        for (written, meant) in [
            ("WEIR_MONGODB_URI", Some("MONGODB_URI")),
            ("WEIR_MONGODB_URL", Some("MONGODB_URI")),
            ("WEIR_MAX_WATCHS", Some("WEIR_MAX_WATCHES")),
            ("WEIR_LISTENS", Some("WEIR_LISTEN")),
            ("WEIR_TLSCERTFILE", Some("WEIR_TLS_CERT_FILE")),
            ("WEIR_TLS_CERT", Some("WEIR_TLS_CERT_FILE")),
            ("WEIR_tls_key_file", Some("WEIR_TLS_KEY_FILE")),
            ("WEIR_COLOR", None),
        ] {
            let found = names(
                &known,
                &[(written, "1"), ("WEIR_LISTEN", "a"), ("PATH", "/")],
            );
            let expected = (written.to_owned(), meant.map(str::to_owned));
            assert_eq!(found, [expected]);
        }
    }

    #[test]
    fn variables_of_kubernetes_and_of_tests_are_known() {
        for variable in [
            ("WEIR_SERVICE_HOST", "10.0.0.1"),
            ("WEIR_SERVICE_PORT", "50051"),
            ("WEIR_SERVICE_PORT_GRPC", "50051"),
            ("WEIR_SERVICE_PORT_GRPC_WEB", "50051"),
            ("WEIR_PORT", "tcp://10.0.0.1:50051"),
            ("WEIR_PORT_50051_TCP", "tcp://10.0.0.1:50051"),
            ("WEIR_PORT_50051_TCP_PROTO", "tcp"),
            ("WEIR_PORT_50051_TCP_PORT", "50051"),
            ("WEIR_PORT_50051_TCP_ADDR", "10.0.0.1"),
            ("WEIR_HEADLESS_SERVICE_HOST", "None"),
            ("WEIR_METRICS_PORT", "udp://10.0.0.2:53"),
            ("WEIR_METRICS_PORT_53_UDP_ADDR", "10.0.0.2"),
            ("WEIR_TEST_MONGODB_URI", "mongodb://localhost"),
        ] {
            assert_eq!(names(&["WEIR_LISTEN"], &[variable]), [], "{variable:?}");
        }
        for variable in [
            ("WEIR_PORT", "50051"),
            ("WEIR_ADMIN_PORT", "9090"),
            ("WEIR_LISTEN_ADDR", "0.0.0.0:50051"),
        ] {
            assert_eq!(names(&["WEIR_X"], &[variable]).len(), 1, "{variable:?}");
        }
    }

    #[test]
    fn a_given_flag_is_found_among_the_arguments() {
        for (argument, expected) in [
            ("--policy-file", true),
            ("--policy-file=a", true),
            ("--policy-files", false),
            ("--policy", false),
            ("policy-file", false),
            ("", false),
        ] {
            let arguments = [OsString::from("serve"), OsString::from(argument)];
            assert_eq!(is_given("policy-file", &arguments), expected, "{argument}");
        }
    }

    #[test]
    fn line_breaks_at_the_end_do_not_count() {
        for (value, expected) in [
            ("a", "a"),
            ("a\n", "a"),
            ("a\r\n\n", "a"),
            ("a\nb\n", "a\nb"),
            ("a ", "a "),
            ("\n", ""),
        ] {
            assert_eq!(trim_line_breaks(OsStr::new(value)), expected, "{value:?}");
            assert_eq!(trimmed([OsString::from(value)]), [expected]);
        }
    }
}
