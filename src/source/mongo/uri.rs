//! Checks of the connection string that need no network, in words for those who wrote it. The driver
//! names its own build features, and finds some problems only at the first command.

mod hosts;
mod options;
mod tls_files;

use std::path::PathBuf;

use mongodb::{
    error::{Error as DriverError, ErrorKind},
    options::{
        Acknowledgment, ClientOptions, ConnectionString, HostInfo, ReadPreference, ServerAddress,
        Tls,
    },
};

use hosts::check_hosts;
use options::{UriOption, check_credentials, check_option, check_together, is_ignored, is_known};

/// A connection string that Weir can use.
#[derive(Debug, Clone)]
pub(super) struct CheckedUri {
    parsed: ConnectionString,
    /// The read preference as the connection string spells it, unless it is `primary`.
    pub read_preference: Option<String>,
}

impl CheckedUri {
    /// Parses a connection string and reads the files that it names. Line breaks at its end don't count:
    /// files of secrets have them.
    ///
    /// # Errors
    /// A message that contains nothing of the user, the password and the hosts.
    pub async fn parse(uri: &str) -> Result<Self, String> {
        let uri = uri.trim_end_matches(['\r', '\n']);
        check_characters(uri)?;
        let (base, options) = split_options(uri)?;
        check_hosts(base)?;
        for option in &options {
            check_option(option)?;
        }
        check_together(&options)?;
        check_credentials(&options)?;
        let used: Vec<_> = options.iter().filter(|it| !is_ignored(it)).collect();
        let mut cleaned = base.to_owned();
        for (index, option) in used.iter().enumerate() {
            cleaned.push(if index == 0 { '?' } else { '&' });
            cleaned.push_str(option.text);
        }
        let parsed = ConnectionString::parse(&cleaned).map_err(|error| words(&error))?;
        check_combinations(&parsed).await?;
        if let Some(tls) = &parsed.tls {
            tls_files::check(tls).await?;
        }
        let read_preference = match &parsed.read_preference {
            None | Some(ReadPreference::Primary) => None,
            Some(_) => Some(read_preference(&used)),
        };
        Ok(Self {
            parsed,
            read_preference,
        })
    }

    /// Returns the files that it names.
    pub fn files(&self) -> Vec<PathBuf> {
        match &self.parsed.tls {
            Some(Tls::Enabled(tls)) => [&tls.ca_file_path, &tls.cert_key_file_path]
                .into_iter()
                .flatten()
                .cloned()
                .collect(),
            _ => Vec::new(),
        }
    }

    /// Returns the name whose SRV record lists the hosts, for a `mongodb+srv` URI.
    pub fn srv_name(&self) -> Option<&str> {
        match &self.parsed.host_info {
            HostInfo::DnsRecord(name) => Some(name),
            _ => None,
        }
    }

    /// Returns the value of `serverSelectionTimeoutMS`.
    pub fn server_selection_timeout(&self) -> Option<std::time::Duration> {
        self.parsed.server_selection_timeout
    }

    /// Returns the client options. Asks the DNS for a `mongodb+srv` URI.
    pub async fn client_options(&self) -> Result<ClientOptions, DriverError> {
        let mut options = ClientOptions::parse(self.parsed.clone()).await?;
        // Weir never writes, and names the read concern where it needs one.
        options.write_concern = None;
        options.read_concern = None;
        Ok(options)
    }
}

/// Returns the driver's error in its own words, without labels and the kind of the error.
pub(super) fn words(error: &DriverError) -> String {
    match &*error.kind {
        ErrorKind::InvalidArgument { message, .. } => in_other_words(message),
        kind => kind.to_string(),
    }
}

/// Returns a message of the driver with what to do, where it leaves that to the reader. It must quote no host,
/// as a password may be in the place of one.
fn in_other_words(message: &str) -> String {
    const ENCODED: &str = "write %40 for @, %3A for :, %2F for /, %23 for # and %25 for %";
    if message.contains("URL encoded") || message.contains("unescaped %") {
        let part = message.split_whitespace().next().unwrap_or_default();
        return format!("the {part} contains a character that must be encoded: {ENCODED}");
    }
    if message.starts_with("invalid server address") {
        return "contains a host that is not written as HOST or HOST:PORT".to_owned();
    }
    message.to_owned()
}

fn check_characters(uri: &str) -> Result<(), String> {
    let problem = if uri.is_empty() {
        "is empty: use mongodb://HOST:PORT/ or mongodb+srv://NAME/"
    } else if uri.starts_with(['"', '\'']) {
        "begins with a quote: remove the quotes around the value, as nothing else does"
    } else if uri.contains(|it: char| it.is_whitespace() || it.is_control()) {
        "contains a space or a line break: remove it, or write %20 for a space in a name or a password"
    } else {
        return Ok(());
    };
    Err(problem.to_owned())
}

/// Splits a connection string into the part before the options, and the options.
fn split_options(uri: &str) -> Result<(&str, Vec<UriOption<'_>>), String> {
    let (base, options) = uri.split_once('?').unwrap_or((uri, ""));
    let is_split = "contains a ? before the @: write %3F for a ? in a user name or a password";
    if options.contains('@') && !base.contains('@') {
        return Err(is_split.to_owned());
    }
    let options = options.split('&').filter(|it| !it.is_empty());
    let options: Option<Vec<_>> = options.map(UriOption::parse).collect();
    let options = options.ok_or("contains an option that is not written as name=value")?;
    // A user name may contain an @ too. Then what no option is may be part of the password.
    let mut from_unknown = options.iter().skip_while(|it| is_known(it));
    if from_unknown.any(|it| it.text.contains('@')) {
        return Err(is_split.to_owned());
    }
    Ok((base, options))
}

/// Checks what the driver checks only after it has resolved the hosts, or at each command.
async fn check_combinations(parsed: &ConnectionString) -> Result<(), String> {
    let unacknowledged = parsed
        .write_concern
        .as_ref()
        .is_some_and(|it| it.w == Some(Acknowledgment::Nodes(0)));
    if unacknowledged {
        return Err(
            "asks for the write concern w=0, with which the driver refuses every command: remove w, as \
             Weir never writes"
                .to_owned(),
        );
    }
    let placeholder = ServerAddress::Tcp {
        host: "localhost".to_owned(),
        port: None,
    };
    let mut resolved = parsed.clone();
    if let HostInfo::DnsRecord(_) = resolved.host_info {
        resolved.host_info = HostInfo::HostIdentifiers(vec![placeholder]);
    }
    let options = ClientOptions::parse(resolved).await;
    options.map(drop).map_err(|error| words(&error))
}

/// Returns the options of the read preference as they are written, in one line.
fn read_preference(options: &[&UriOption<'_>]) -> String {
    let concerns = |option: &UriOption<'_>| {
        let key = &option.key;
        key.starts_with("readpreference") || key == "maxstalenessseconds"
    };
    let texts: Vec<_> = options
        .iter()
        .filter(|option| concerns(option))
        .map(|option| option.text)
        .collect();
    texts.join("&")
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn refused(uri: &str) -> String {
        match CheckedUri::parse(uri).await {
            Ok(_) => panic!("{uri} was accepted"),
            Err(problem) => problem,
        }
    }

    /// Nothing of the user, the password and the hosts may be in a message, wherever the mistake is.
    #[tokio::test]
    async fn no_message_quotes_a_password() {
        const SECRET: &str = "hunter2secret";
        for uri in [
            format!("mongodb://user:{SECRET}?{SECRET}@host/"),
            format!("mongodb://user:a?{SECRET}=b@host/"),
            format!("mongodb://user:a?b={SECRET}@host/"),
            format!("mongodb://user:a?b&{SECRET}@host/"),
            format!("mongodb://user:{SECRET} @host/"),
            format!("mongodb://user:{SECRET}\n@host/"),
            format!("\"mongodb://user:{SECRET}@host/\""),
            format!("mongodb://user:{SECRET}@host/?w=0"),
            format!("mongodb://user:{SECRET}@host/?replicaset"),
            format!(
                "mongodb://user:{SECRET}@host/?tls=true&tlsCertificateKeyFilePassword={SECRET}"
            ),
            format!("mongodb://user:{SECRET}@host/?proxyPassword={SECRET}"),
            format!("mongodb://user:{SECRET}/@host/"),
            format!("mongodb://user:{SECRET}%@host/"),
            format!("mongodb://user:{SECRET}"),
            format!("mongodb://user:{SECRET}/"),
            format!("mongodb://user:{SECRET}%40host/"),
            format!("mongodb://[user:{SECRET}"),
            format!("mongodb://[::1]{SECRET}/"),
            format!("mongodb+srv://user:{SECRET}"),
            format!("user:{SECRET}://host/"),
            format!("user:{SECRET}@host"),
            format!("mongodb://user:{SECRET}@word@host/"),
            format!("mongodb://host/?appName=a&appName={SECRET}"),
            format!("mongodb://user@word:1?{SECRET}=b@host/"),
            format!("mongodb://user@word:1?tls=true&{SECRET}=b@host/"),
            format!("mongodb://host/?authMechanismProperties=SERVICE_NAME:a,{SECRET}"),
        ] {
            let said = refused(&uri).await;
            assert!(!said.contains(SECRET), "{uri}: {said}");
        }
    }

    #[tokio::test]
    async fn what_the_driver_finds_after_the_dns_is_found_before_it() {
        for (options, words) in [
            ("directConnection=true", "directConnection"),
            ("loadBalanced=true&replicaSet=a", "loadBalanced"),
            (
                "readPreference=secondary&maxStalenessSeconds=1",
                "maxStalenessSeconds",
            ),
            ("maxPoolSize=0", "maxPoolSize"),
            ("heartbeatFrequencyMS=1", "heartbeatFrequencyMS"),
        ] {
            let said = refused(&format!("mongodb+srv://cluster.example.net/?{options}")).await;
            assert!(said.contains(words), "{options}: {said}");
        }
    }

    #[tokio::test]
    async fn the_read_preference_is_quoted_unless_it_is_the_primary() {
        for (options, expected) in [
            ("", None),
            ("readPreference=primary", None),
            ("readPreference=nearest", Some("readPreference=nearest")),
            (
                "readPreference=secondary&appName=a&maxStalenessSeconds=120&readPreferenceTags=dc:ny",
                Some("readPreference=secondary&maxStalenessSeconds=120&readPreferenceTags=dc:ny"),
            ),
        ] {
            let uri = CheckedUri::parse(&format!("mongodb://host/?{options}")).await;
            let uri = uri.expect("it is valid");
            assert_eq!(uri.read_preference.as_deref(), expected);
        }
    }

    #[tokio::test]
    async fn options_of_other_drivers_and_writes_are_accepted() {
        for options in [
            "uuidRepresentation=standard",
            "uuidRepresentation=csharpLegacy",
            "w=majority&journal=true&retryWrites=true&wtimeoutMS=1000",
            "readConcernLevel=nonsense",
            "tls=false&ssl=false",
            "appName=a%20b",
            "",
            "&",
        ] {
            let uri = CheckedUri::parse(&format!("mongodb://user:pw@host/?{options}\r\n")).await;
            let options = uri.expect("it is valid").client_options().await;
            let options = options.expect("they are valid");
            assert!(options.read_concern.is_none() && options.write_concern.is_none());
        }
    }
}
