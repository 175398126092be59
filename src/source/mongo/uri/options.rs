//! The options of a connection string.

/// The options that Weir knows, as MongoDB's manual spells them.
const KNOWN: [&str; 39] = [
    "appName",
    "authMechanism",
    "authMechanismProperties",
    "authSource",
    "compressors",
    "connectTimeoutMS",
    "directConnection",
    "enableOverloadRetargeting",
    "heartbeatFrequencyMS",
    "journal",
    "loadBalanced",
    "localThresholdMS",
    "maxAdaptiveRetries",
    "maxConnecting",
    "maxIdleTimeMS",
    "maxPoolSize",
    "maxStalenessSeconds",
    "minPoolSize",
    "readConcernLevel",
    "readPreference",
    "readPreferenceTags",
    "replicaSet",
    "retryReads",
    "retryWrites",
    "serverMonitoringMode",
    "serverSelectionTimeoutMS",
    "srvMaxHosts",
    "srvServiceName",
    "ssl",
    "tls",
    "tlsAllowInvalidCertificates",
    "tlsCAFile",
    "tlsCertificateKeyFile",
    "tlsInsecure",
    "uuidRepresentation",
    "w",
    "waitQueueTimeoutMS",
    "wtimeoutMS",
    "zlibCompressionLevel",
];

/// Options that MongoDB's manual has and Weir can't follow, each with what to do instead.
const UNSUPPORTED: [(&str, &str); 10] = [
    (
        "timeoutMS",
        "remove it; --upstream-reply-timeout bounds the wait for a reply",
    ),
    (
        "socketTimeoutMS",
        "remove it; --upstream-reply-timeout bounds the wait for a reply",
    ),
    (
        "tlsCertificateKeyFilePassword",
        "store the key of tlsCertificateKeyFile unencrypted, in a file that only Weir may read",
    ),
    (
        "tlsAllowInvalidHostnames",
        "use a certificate that names the host; tlsAllowInvalidCertificates=true accepts any certificate",
    ),
    (
        "tlsDisableCertificateRevocationCheck",
        "remove it; Weir does not check whether certificates are revoked",
    ),
    (
        "tlsDisableOCSPEndpointCheck",
        "remove it; Weir does not check whether certificates are revoked",
    ),
    ("proxyHost", PROXY),
    ("proxyPort", PROXY),
    ("proxyUsername", PROXY),
    ("proxyPassword", PROXY),
];

const PROXY: &str = "remove it and connect directly; Weir has no SOCKS5 client";

/// The most bytes of `appName` that MongoDB accepts from a client, which it refuses otherwise (code 184,
/// `ClientMetadataAppNameTooLarge`).
const MAX_APP_NAME_BYTES: usize = 128;

/// The least `serverSelectionTimeoutMS`, in milliseconds: with 0, the driver finds no server that it does not know yet.
const MIN_SERVER_SELECTION_MS: i64 = 1;

/// The options whose value is `true` or `false`.
const SWITCHES: [&str; 9] = [
    "directConnection",
    "journal",
    "loadBalanced",
    "retryReads",
    "retryWrites",
    "ssl",
    "tls",
    "tlsAllowInvalidCertificates",
    "tlsInsecure",
];

/// The mechanisms of authentication that this build has.
const MECHANISMS: [&str; 5] = [
    "SCRAM-SHA-256",
    "SCRAM-SHA-1",
    "MONGODB-X509",
    "PLAIN",
    "MONGODB-OIDC",
];

/// Whether this build compresses the traffic with MongoDB.
const HAS_COMPRESSION: bool = cfg!(feature = "mongodb-compression");

/// The algorithms of compression that MongoDB has, in the order of preference for change streams.
const COMPRESSORS: [&str; 3] = ["zstd", "snappy", "zlib"];

/// The similarity from which on a name counts as misspelled, from 0 to 1.
const MIN_SIMILARITY: f64 = 0.8;

/// One option of a connection string.
#[derive(Debug)]
pub(super) struct UriOption<'a> {
    /// The option as it is written.
    pub text: &'a str,
    /// Its name in lower case: MongoDB ignores the case.
    pub key: String,
    value: &'a str,
}

impl<'a> UriOption<'a> {
    pub fn parse(text: &'a str) -> Option<Self> {
        let (name, value) = text.split_once('=')?;
        Some(Self {
            text,
            key: name.to_lowercase(),
            value,
        })
    }

    fn is(&self, name: &str) -> bool {
        self.key.eq_ignore_ascii_case(name)
    }
}

/// Returns whether an option has no meaning for Weir, although the driver may refuse it.
pub(super) fn is_ignored(option: &UriOption<'_>) -> bool {
    // The representation of UUIDs in programs; Weir passes their bytes on. The driver refuses `standard`,
    // which the manual recommends.
    option.is("uuidRepresentation")
}

/// Returns whether there is such an option, also where Weir refuses it.
pub(super) fn is_known(option: &UriOption<'_>) -> bool {
    let mut unsupported = UNSUPPORTED.iter().map(|(name, _)| name);
    KNOWN.iter().any(|name| option.is(name)) || unsupported.any(|name| option.is(name))
}

/// Checks that the program can get the credentials that the mechanism needs.
///
/// # Errors
/// A message that names the options and says what to do.
pub(super) fn check_credentials(options: &[UriOption<'_>]) -> Result<(), String> {
    let value = |name: &str| options.iter().find(|it| it.is(name)).map(|it| it.value);
    let properties = value("authMechanismProperties").unwrap_or_default();
    let is_kubernetes = properties.split(',').any(|it| it == "ENVIRONMENT:k8s");
    if value("authMechanism") == Some("MONGODB-OIDC") && !is_kubernetes {
        return Err(
            "authMechanism=MONGODB-OIDC is supported only with authMechanismProperties=ENVIRONMENT:k8s: add \
             that, or use another authMechanism"
                .to_owned(),
        );
    }
    Ok(())
}

/// Checks one option.
///
/// # Errors
/// A message that names the option and says what to do.
pub(super) fn check_option(option: &UriOption<'_>) -> Result<(), String> {
    if let Some((name, instead)) = UNSUPPORTED.iter().find(|(name, _)| option.is(name)) {
        return Err(format!("{name} is not supported: {instead}"));
    }
    let Some(name) = KNOWN.iter().find(|name| option.is(name)) else {
        return Err(unknown(option));
    };
    let value = option.value;
    if SWITCHES.contains(name) && !matches!(value, "true" | "false") {
        return Err(format!("{name} has another value than true and false"));
    }
    let at_least = |least: i64, unit: &str| match value.parse::<i64>() {
        Ok(number) if number < least => {
            Err(format!("{name} is too small: use at least {least}{unit}"))
        }
        // The driver says what else is no number.
        _ => Ok(()),
    };
    match *name {
        "appName" if decoded_length(value) > MAX_APP_NAME_BYTES => Err(format!(
            "appName is longer than {MAX_APP_NAME_BYTES} bytes, which MongoDB refuses: use a shorter one"
        )),
        "authMechanism" => check_mechanism(value),
        // The driver quotes the entry, which may be a secret.
        "authMechanismProperties" if !value.split(',').all(is_named) => {
            Err("authMechanismProperties has an entry that is not written as NAME:VALUE".to_owned())
        }
        "replicaSet" if value.is_empty() => {
            Err("replicaSet is empty: name the replica set, or remove the option".to_owned())
        }
        "serverSelectionTimeoutMS" => at_least(MIN_SERVER_SELECTION_MS, " ms"),
        "heartbeatFrequencyMS" => at_least(500, " ms"),
        "maxStalenessSeconds" if value != "-1" => at_least(90, ", or -1 for no limit"),
        "compressors" => value.split(',').try_for_each(check_compressor),
        "zlibCompressionLevel" if !HAS_COMPRESSION => Err(no_compression()),
        _ => Ok(()),
    }
}

/// Checks options that may not be combined.
///
/// # Errors
/// A message that names the options and says what to do.
pub(super) fn check_together(options: &[UriOption<'_>]) -> Result<(), String> {
    let name = |option: &UriOption<'_>| KNOWN.iter().find(|name| option.is(name)).copied();
    for (index, option) in options.iter().enumerate() {
        let again = options[..index].iter().any(|it| it.key == option.key);
        // Each of these is a further choice.
        if again && !option.is("readPreferenceTags") {
            let name = name(option).unwrap_or("an option");
            return Err(format!("{name} is given twice: remove one"));
        }
    }
    let value = |name: &str| options.iter().find(|it| it.is(name)).map(|it| it.value);
    match (value("tls"), value("ssl")) {
        (Some(tls), Some(ssl)) if tls != ssl => {
            Err("tls and ssl are the same option and have different values: remove ssl".to_owned())
        }
        _ => Ok(()),
    }
}

fn unknown(option: &UriOption<'_>) -> String {
    // Only a plain word is quoted: what follows an unescaped ? may be part of a password.
    let written = option.text.split('=').next().unwrap_or_default();
    let is_word = written.len() <= 40 && written.bytes().all(|it| it.is_ascii_alphanumeric());
    let unsupported = UNSUPPORTED.iter().map(|(name, _)| *name);
    let nearest = KNOWN
        .iter()
        .copied()
        .chain(unsupported)
        .map(|name| {
            (
                strsim::jaro_winkler(&name.to_lowercase(), &option.key),
                name,
            )
        })
        .max_by(|one, other| one.0.total_cmp(&other.0));
    match nearest {
        Some((similarity, name)) if is_word && similarity >= MIN_SIMILARITY => {
            format!("{written} is not an option of a connection string: did you mean {name}?")
        }
        _ if is_word => {
            format!("{written} is not an option of a connection string: remove it")
        }
        _ => "contains an option that does not exist: remove it".to_owned(),
    }
}

/// Returns the length of a value in bytes, each escape such as `%20` being one.
fn decoded_length(value: &str) -> usize {
    value.len().saturating_sub(2 * value.matches('%').count())
}

/// Returns whether a property has a name. The colon may be written as an escape.
fn is_named(property: &str) -> bool {
    property.contains(':') || property.to_ascii_uppercase().contains("%3A")
}

fn check_mechanism(mechanism: &str) -> Result<(), String> {
    const USE: &str = "use SCRAM-SHA-256, SCRAM-SHA-1, MONGODB-X509 or PLAIN";
    match mechanism {
        "MONGODB-AWS" | "GSSAPI" | "MONGODB-CR" => {
            Err(format!("authMechanism={mechanism} is not supported: {USE}"))
        }
        _ if MECHANISMS.contains(&mechanism) => Ok(()),
        _ => Err(format!("authMechanism is no mechanism of MongoDB: {USE}")),
    }
}

fn check_compressor(name: &str) -> Result<(), String> {
    if !COMPRESSORS.iter().any(|it| name.eq_ignore_ascii_case(it)) {
        if name.is_empty() {
            return Err(
                "compressors has an empty name: use zstd, snappy or zlib, or remove the option"
                    .to_owned(),
            );
        }
        let plain: String = name
            .chars()
            .filter(char::is_ascii_alphanumeric)
            .take(20)
            .collect();
        return Err(format!(
            "compressors names {plain}, which MongoDB does not have: use zstd, snappy or zlib"
        ));
    }
    if HAS_COMPRESSION {
        Ok(())
    } else {
        Err(no_compression())
    }
}

fn no_compression() -> String {
    "asks for compression, and this program was built without the feature mongodb-compression: remove \
     compressors and zlibCompressionLevel, or build it with --features mongodb-compression"
        .to_owned()
}
