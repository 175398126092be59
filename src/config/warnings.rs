//! Settings that can be used and are most likely not meant like this: the warnings of the start.

use std::{path::Path, time::Duration};

use super::ServeConfig;
use crate::files::ExposedPath;

/// The longest interval of reloading that does not surprise: after it a credential that has expired is refused.
const LONGEST_RELOAD_INTERVAL: Duration = Duration::from_secs(30);

/// A setting that is most likely not meant like this.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// The name of the flag, without dashes.
    pub flag: &'static str,
    /// The danger.
    pub problem: String,
    /// What to do.
    pub remedy: String,
}

/// What the files that the settings name say about them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FileFacts {
    /// `true` if an API key expires.
    pub keys_expire: bool,
    /// The lines of `--token-key-file` whose keys are not random.
    pub weak_token_keys: Vec<usize>,
    /// A description of each rule of the policy that never decides.
    pub rules_without_effect: Vec<String>,
    /// The flags of files that others can change, with the way.
    pub exposed: Vec<(&'static str, ExposedPath)>,
}

impl Warning {
    /// Returns the warning of keys in these lines of `--token-key-file`, unless there are none.
    #[must_use]
    pub fn of_weak_token_keys(lines: &[usize]) -> Option<Self> {
        let first = lines.first()?;
        Some(Self {
            flag: "token-key-file",
            problem: format!(
                "the key on line {first} is not random, so that clients may guess it, and read and forge tokens"
            ),
            remedy: "add a key of `openssl rand -base64 32` and remove this one, in the order of docs/upgrade.md"
                .to_owned(),
        })
    }

    /// Returns the warning of rules in `--policy-file` that have no effect, each described, unless there are none.
    #[must_use]
    pub fn of_rules_without_effect(rules: &[String]) -> Option<Self> {
        let (first, others) = rules.split_first()?;
        let others = match others.len() {
            0 => String::new(),
            count => format!("; so do {count} more rules"),
        };
        Some(Self {
            flag: "policy-file",
            problem: format!("{first}{others}: what such a rule hides is shown"),
            remedy: "move the narrower rule before the wider one, or remove it".to_owned(),
        })
    }

    fn of_exposed_file(flag: &'static str, exposed: &ExposedPath) -> Self {
        let path = exposed.path.display();
        let who = if exposed.to_everybody {
            "everybody"
        } else {
            "its group"
        };
        Self {
            flag,
            problem: format!("{path} can be written by {who}, who can so replace what Weir trusts"),
            remedy: format!("chmod go-w {path}"),
        }
    }

    /// Logs it.
    pub fn log(&self) {
        let Self {
            flag,
            problem,
            remedy,
        } = self;
        tracing::warn!(
            flag = format!("--{flag}"),
            problem,
            remedy,
            "a setting is probably not meant like this"
        );
    }
}

impl ServeConfig {
    /// Returns every setting that is most likely not meant as it is.
    #[must_use]
    pub fn warnings(&self, facts: &FileFacts) -> Vec<Warning> {
        let of_settings = [
            self.open_metrics(),
            self.slow_reload(facts),
            Warning::of_weak_token_keys(&facts.weak_token_keys),
            Warning::of_rules_without_effect(&facts.rules_without_effect),
            self.password_of_collector(),
        ];
        let of_files = facts
            .exposed
            .iter()
            .map(|(flag, exposed)| Warning::of_exposed_file(flag, exposed));
        of_settings.into_iter().flatten().chain(of_files).collect()
    }

    /// Returns the files that decide who may do what, with their flags.
    #[must_use]
    pub fn trusted_files(&self) -> Vec<(&'static str, &Path)> {
        let (tls, auth) = (&self.tls, &self.auth);
        let files = [
            ("tls-cert-file", &tls.tls_cert_file),
            ("tls-key-file", &tls.tls_key_file),
            ("tls-client-ca-file", &tls.tls_client_ca_file),
            ("jwks-file", &auth.jwks_file),
            ("jwks-ca-file", &auth.jwks_ca_file),
            ("api-keys-file", &auth.api_keys_file),
            ("policy-file", &auth.policy_file),
            ("token-key-file", &auth.token_key_file),
            ("admin-token-file", &auth.admin_token_file),
        ];
        files
            .into_iter()
            .filter_map(|(flag, path)| Some((flag, path.as_deref()?)))
            .collect()
    }

    fn open_metrics(&self) -> Option<Warning> {
        let is_open = !self.admin_listen.ip().to_canonical().is_loopback()
            && self.auth.admin_token_file.is_none()
            && !self.admin.allow_open_metrics;
        is_open.then(|| Warning {
            flag: "admin-listen",
            problem: format!(
                "everyone who reaches {} can read which databases and collections are watched",
                self.admin_listen
            ),
            remedy: "set --admin-token-file, listen on 127.0.0.1, or set --allow-open-metrics where a firewall or \
                     a network policy decides who reaches the port"
                .to_owned(),
        })
    }

    fn slow_reload(&self, facts: &FileFacts) -> Option<Warning> {
        // A key set at a URL has an interval of its own.
        let expire = facts.keys_expire
            || self.auth.jwks_file.is_some()
            || self.tls.tls_client_ca_file.is_some();
        let is_slow = self.reload_interval > LONGEST_RELOAD_INTERVAL && expire;
        is_slow.then(|| Warning {
            flag: "reload-interval",
            problem: format!(
                "credentials expire, but a key that is renewed or withdrawn in a file counts only after up to two \
                 intervals of {}",
                humantime::format_duration(self.reload_interval)
            ),
            remedy: "use at most 15s, so that a change is in force within 30 s".to_owned(),
        })
    }

    fn password_of_collector(&self) -> Option<Warning> {
        self.spans.has_credentials().then(|| Warning {
            flag: "otlp-endpoint",
            problem: "the URL contains a user or a password, which is not sent, and which whoever sees the command \
                      line can read"
                .to_owned(),
            remedy: "remove it, and set OTEL_EXPORTER_OTLP_HEADERS if the collector asks for credentials".to_owned(),
        })
    }
}
