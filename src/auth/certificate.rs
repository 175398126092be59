//! Certificates of clients, which the handshake has checked: whose they are.

use std::time::{Duration, SystemTime};

use serde_json::{Map, Value, json};
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

use super::{MAX_NAME_BYTES, Method, Principal, Proof, in_time};
use crate::error::Error;

/// The most names that a certificate may have.
const MAX_NAMES: usize = 100;

/// Whose certificate it is: its first alternative name, those of services (URI, such as SPIFFE's) before
/// those of hosts (DNS) before those of people (email). The common name means nothing, as authorities have
/// not been held to any rule on what it holds.
pub(super) fn judge(der: &[u8]) -> Result<Principal, Error> {
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
    if names.len() > MAX_NAMES {
        return Err(refused("the certificate has too many names"));
    }
    let (mut uris, mut hosts, mut people) = (Vec::new(), Vec::new(), Vec::new());
    for name in names {
        let (list, name) = match name {
            GeneralName::URI(name) => (&mut uris, (*name).to_owned()),
            // They mean the same in any case.
            GeneralName::DNSName(name) => (&mut hosts, name.to_ascii_lowercase()),
            GeneralName::RFC822Name(name) => (&mut people, (*name).to_owned()),
            // What could not be read might have been anything.
            GeneralName::Invalid(..) => {
                return Err(refused("the certificate's names can't be read"));
            }
            _ => continue,
        };
        if !is_plain(&name) {
            return Err(refused("the certificate has a name that can't be one"));
        }
        list.push(name);
    }
    // As SPIFFE has it: who has two such names is nobody.
    if uris.len() > 1 && uris.iter().any(|uri| uri.starts_with("spiffe:")) {
        return Err(refused("the certificate has more than one URI"));
    }
    let name = uris.first().or(hosts.first()).or(people.first());
    let Some(name) = name.cloned() else {
        return Err(refused(
            "the certificate has no URI, DNS name or email address",
        ));
    };
    let mut claims = Map::new();
    for (claim, names) in [("san_uri", uris), ("san_dns", hosts), ("san_email", people)] {
        if !names.is_empty() {
            claims.insert(claim.to_owned(), json!(names));
        }
    }
    let ends = certificate.validity().not_after.timestamp();
    let ends = u64::try_from(ends).unwrap_or(0);
    in_time(Principal {
        method: Method::Certificate,
        name,
        claims: claims as Map<String, Value>,
        // Its last second is still its own.
        expires: SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(ends + 1)),
        proof: Proof::None,
    })
}

/// A name that means one thing: no wildcard, which stands for many, and nothing that a reader or a C
/// string would end at.
fn is_plain(name: &str) -> bool {
    (1..=MAX_NAME_BYTES).contains(&name.len())
        && name.bytes().all(|it| it.is_ascii_graphic())
        && !name.contains('*')
}
