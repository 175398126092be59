//! The identity in a client certificate that the TLS handshake has verified.

use std::time::{Duration, SystemTime};

use serde_json::{Map, Value, json};
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

use super::principal::{CredentialFingerprint, MAX_NAME_BYTES, Method, Principal, check_expiry};
use crate::error::Error;

/// The maximum number of names in a certificate.
const MAX_ALTERNATIVE_NAMES: usize = 100;

/// The claims of a certificate: its names by their kind.
pub const CERTIFICATE_CLAIMS: [&str; 3] = ["san_uri", "san_dns", "san_email"];

/// Returns the principal of a certificate. Its name is the first subject alternative name: URIs (such as
/// SPIFFE IDs) first, then DNS names, then email addresses. The common name is ignored, because authorities
/// follow no common rule for it.
pub(super) fn principal(der: &[u8]) -> Result<Principal, Error> {
    let refused = Error::CredentialsInvalid;
    let (rest, certificate) =
        X509Certificate::from_der(der).map_err(|_| refused("the certificate can't be read"))?;
    if !rest.is_empty() {
        return Err(refused("the certificate can't be read"));
    }
    let names = certificate
        .subject_alternative_name()
        .map_err(|_| refused("the certificate's names can't be read"))?
        .map(|extension| &extension.value.general_names);
    let names = names.map(Vec::as_slice).unwrap_or_default();
    if names.len() > MAX_ALTERNATIVE_NAMES {
        return Err(refused("the certificate has more than 100 names"));
    }
    let (mut uris, mut hosts, mut emails) = (Vec::new(), Vec::new(), Vec::new());
    for name in names {
        let (list, name) = match name {
            GeneralName::URI(name) => (&mut uris, (*name).to_owned()),
            // DNS names are not case-sensitive.
            GeneralName::DNSName(name) => (&mut hosts, name.to_ascii_lowercase()),
            GeneralName::RFC822Name(name) => (&mut emails, (*name).to_owned()),
            // An unreadable name could have been of any kind.
            GeneralName::Invalid(..) => {
                return Err(refused("the certificate's names can't be read"));
            }
            _ => continue,
        };
        if !is_valid_certificate_name(&name) {
            return Err(refused("the certificate has an invalid name"));
        }
        list.push(name);
    }
    // SPIFFE requires exactly one URI.
    if uris.len() > 1 && uris.iter().any(|uri| uri.starts_with("spiffe:")) {
        return Err(refused(
            "the certificate has a SPIFFE ID and other URIs: SPIFFE allows only one URI",
        ));
    }
    let name = uris.first().or(hosts.first()).or(emails.first());
    let Some(name) = name.cloned() else {
        return Err(refused(
            "the certificate has no URI, DNS name or email address",
        ));
    };
    let mut claims = Map::new();
    for (claim, names) in CERTIFICATE_CLAIMS.into_iter().zip([uris, hosts, emails]) {
        if !names.is_empty() {
            claims.insert(claim.to_owned(), json!(names));
        }
    }
    let not_after = certificate.validity().not_after.timestamp();
    let not_after = u64::try_from(not_after).unwrap_or(0);
    check_expiry(Principal {
        method: Method::Certificate,
        name,
        claims: claims as Map<String, Value>,
        // The certificate is valid until the end of its last second.
        expires: SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(not_after + 1)),
        fingerprint: CredentialFingerprint::None,
    })
}

/// Returns whether a name of a certificate has a single meaning: no wildcard, and no characters at which a C string or
/// a reader would stop.
#[must_use]
pub fn is_valid_certificate_name(name: &str) -> bool {
    (1..=MAX_NAME_BYTES).contains(&name.len())
        && name.bytes().all(|it| it.is_ascii_graphic())
        && !name.contains('*')
}
