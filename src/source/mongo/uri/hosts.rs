//! The hosts of a connection string.

/// Checks the scheme and the hosts, `base` being all in front of the options.
///
/// # Errors
/// A message that quotes nothing: where an `@` is missing, the password is in the place of a port.
pub(super) fn check_hosts(base: &str) -> Result<(), String> {
    const USE: &str = "use mongodb://HOST:PORT/ or mongodb+srv://NAME/";
    let Some((scheme, rest)) = base.split_once("://") else {
        return Err(format!("has no scheme: {USE}"));
    };
    if !matches!(scheme, "mongodb" | "mongodb+srv") {
        return Err(format!("has another scheme than those of MongoDB: {USE}"));
    }
    let hosts = rest.rsplit_once('@').map_or(rest, |(_, hosts)| hosts);
    let hosts = hosts.split('/').next().unwrap_or_default();
    for host in hosts.split(',') {
        if host.is_empty() {
            return Err(format!("names no host, or an empty one: {USE}"));
        }
        if scheme == "mongodb" {
            check_port(host)?;
        }
    }
    Ok(())
}

fn check_port(host: &str) -> Result<(), String> {
    // The colons of an IPv6 address are within brackets.
    let behind_address = host.rsplit_once(']').map_or(host, |(_, behind)| behind);
    let Some((_, port)) = behind_address.split_once(':') else {
        return Ok(());
    };
    if port.parse::<u16>().is_ok_and(|port| port > 0) {
        return Ok(());
    }
    let problem = "contains a port that is not a number from 1 to 65535: use mongodb://HOST:PORT/, or \
                   mongodb://USER:PASSWORD@HOST:PORT/ with %40 for an @ in the password";
    Err(problem.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_names_or_addresses_with_or_without_a_port() {
        for base in [
            "mongodb://a",
            "mongodb://a:1,b:65535/db",
            "mongodb://u:p@a:27017,[::1]:27017,[fe80::1]/",
            "mongodb://%2Ftmp%2Fmongodb-27017.sock/",
            "mongodb://u:p%40ss@10.0.0.1/",
            "mongodb+srv://u:p@cluster.example.net",
        ] {
            assert_eq!(check_hosts(base), Ok(()), "{base}");
        }
        for (base, words) in [
            ("localhost:27017", "no scheme"),
            ("${MONGODB_URI}", "no scheme"),
            ("http://a", "another scheme"),
            ("MongoDB://a", "another scheme"),
            ("mongodb://", "names no host"),
            ("mongodb:///tmp/mongodb.sock", "names no host"),
            ("mongodb://a,,b", "an empty one"),
            ("mongodb://u:p@", "names no host"),
            ("mongodb://a:0", "a port that is not a number"),
            ("mongodb://a:65536", "a port that is not a number"),
            ("mongodb://a:", "a port that is not a number"),
            ("mongodb://user:password", "%40"),
            ("mongodb://[::1]:x", "a port that is not a number"),
        ] {
            let problem = check_hosts(base).expect_err(base);
            assert!(problem.contains(words), "{base}: {problem}");
        }
    }
}
