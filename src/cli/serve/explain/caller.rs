//! The caller that is asked about, as its credentials would make it.

use std::time::SystemTime;

use serde_json::{Map, Value, json};

use crate::{
    auth::{
        CERTIFICATE_CLAIMS, Method, Principal, is_valid_certificate_name, is_valid_principal_name,
    },
    config::ServeConfig,
    rpc::Access,
};

pub(super) struct Caller {
    pub(super) principal: Principal,
    /// Why the server would refuse every call of it.
    pub(super) refusal: Option<String>,
    /// What was assumed about it.
    pub(super) notes: Vec<String>,
}

impl Caller {
    /// Reads a principal as policies write it, with its claims in JSON, if they are given.
    pub(super) fn read(
        text: &str,
        claims: Option<&str>,
        config: &ServeConfig,
        access: &Access,
    ) -> Result<Self, String> {
        let given = claims.map(read_claims).transpose()?;
        let principal = principal(text, given.as_ref())?;
        let method = principal.method;
        let mut caller = Self {
            principal,
            refusal: None,
            notes: Vec::new(),
        };
        if !access.authenticator.accepts(method) {
            caller.refusal = Some(match method {
                Method::None => "the server requires credentials".to_owned(),
                _ if !access.authenticator.is_on() => {
                    "the server asks for no credentials, so that every caller is anonymous"
                        .to_owned()
                }
                _ => format!(
                    "the server accepts no credentials of the kind {}",
                    method.name()
                ),
            });
        }
        match method {
            Method::Key => caller.complete_key(given.is_some(), access),
            Method::Jwt => caller.complete_token(given.is_some(), config),
            Method::Certificate if given.is_none() => caller.complete_certificate(),
            Method::None | Method::Certificate => {}
        }
        Ok(caller)
    }

    fn complete_key(&mut self, has_claims: bool, access: &Access) {
        match access.authenticator.find_key(&self.principal.name) {
            Some(found) if found.expires.is_some_and(|it| it <= SystemTime::now()) => {
                self.refusal = Some("its key in --api-keys-file has expired".to_owned());
            }
            Some(found) if !has_claims => self.principal.claims = found.claims,
            Some(_) => {}
            None if has_claims => self.note("no key in --api-keys-file has this name"),
            None => {
                let refusal = || "no key in --api-keys-file has this name".to_owned();
                self.refusal.get_or_insert_with(refusal);
            }
        }
    }

    fn complete_token(&mut self, has_claims: bool, config: &ServeConfig) {
        let auth = &config.auth;
        let claims = &mut self.principal.claims;
        claims
            .entry(&auth.jwt_name_claim)
            .or_insert_with(|| self.principal.name.clone().into());
        if let Some(issuer) = &auth.jwt_issuer {
            claims
                .entry("iss")
                .or_insert_with(|| issuer.as_str().into());
        }
        if !has_claims {
            self.note("a token with no claims but its name and issuer is assumed: give others with --claims");
        }
    }

    fn complete_certificate(&mut self) {
        let name = &self.principal.name;
        self.principal
            .claims
            .insert(kind_of(name).to_owned(), json!([name]));
        self.note("a certificate with no other name is assumed: give others with --claims");
    }

    fn note(&mut self, text: &str) {
        self.notes.push(text.to_owned());
    }

    /// Returns those of the named claims that it lacks.
    pub(super) fn missing(&self, claims: &[String]) -> Vec<String> {
        let missing = claims
            .iter()
            .filter(|it| !self.principal.claims.contains_key(*it));
        missing.cloned().collect()
    }
}

/// Returns the principal that a text names, with these claims.
fn principal(text: &str, claims: Option<&Map<String, Value>>) -> Result<Principal, String> {
    let wrong = || {
        format!(
            "--explain: {text:?} is not a principal: use key:NAME, jwt:NAME, cert:NAME or anonymous"
        )
    };
    let (method, name) = text.split_once(':').unwrap_or((text, ""));
    let methods = [Method::None, Method::Jwt, Method::Key, Method::Certificate];
    let method = methods.into_iter().find(|it| it.name() == method);
    let method = method.ok_or_else(wrong)?;
    let is_named = method != Method::None;
    if text.contains(':') != is_named || is_named && !is_valid_principal_name(name) {
        return Err(wrong());
    }
    let mut name = name.to_owned();
    match method {
        Method::None if claims.is_some() => {
            return Err("--claims: anonymous callers have none: leave it out".to_owned());
        }
        Method::Certificate => {
            if !is_valid_certificate_name(&name) {
                return Err(format!(
                    "--explain: {text:?} is not a principal: a name of a certificate is printable ASCII without spaces and *"
                ));
            }
            let mut names = claims.into_iter().flat_map(Map::keys);
            if let Some(bad) = names.find(|it| !CERTIFICATE_CLAIMS.contains(&it.as_str())) {
                return Err(format!(
                    "--claims: certificates have no claim {bad:?}: use {}",
                    CERTIFICATE_CLAIMS.join(", ")
                ));
            }
            if kind_of(&name) == "san_dns" {
                // As the server reads it from the certificate.
                name.make_ascii_lowercase();
            }
        }
        _ => {}
    }
    Ok(Principal {
        method,
        name,
        claims: claims.cloned().unwrap_or_default(),
        ..Principal::anonymous()
    })
}

/// Returns the claim that holds a name of a certificate, by the form of the name.
fn kind_of(name: &str) -> &'static str {
    match name {
        name if name.contains(':') => "san_uri",
        name if name.contains('@') => "san_email",
        _ => "san_dns",
    }
}

fn read_claims(json: &str) -> Result<Map<String, Value>, String> {
    let read = serde_json::from_str(json);
    // serde_json's own message would not say what an object is.
    read.map_err(|_| "--claims: is not a JSON object, such as {\"tenant\": \"a\"}".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caller_has_only_the_claims_and_names_that_its_credentials_can_have() {
        let claims = |json: &str| (!json.is_empty()).then(|| read_claims(json).expect(json));
        for (text, json, words) in [
            (
                "anonymous",
                r#"{"tenant": "a"}"#,
                "anonymous callers have none",
            ),
            ("anonymous", "{}", "anonymous callers have none"),
            (
                "cert:a.example",
                r#"{"san_dns": ["a.example"], "tenant": "a"}"#,
                "no claim \"tenant\": use san_uri, san_dns, san_email",
            ),
            ("cert:*.example", "", "without spaces and *"),
            ("cert:a b", "", "without spaces and *"),
            ("cert:ä.example", "", "printable ASCII"),
        ] {
            let problem = principal(text, claims(json).as_ref()).expect_err(text);
            assert!(problem.contains(words), "{text}: {problem}");
        }
        for (text, json, name) in [
            ("cert:Shop.Example", "", "shop.example"),
            ("cert:Ann@shop.example", "", "Ann@shop.example"),
            (
                "cert:spiffe://Mesh/a",
                r#"{"san_uri": ["spiffe://Mesh/a"]}"#,
                "spiffe://Mesh/a",
            ),
            ("key:Shop", r#"{"tenant": "a"}"#, "Shop"),
            ("jwt:ä b", r#"{"tenant": "a"}"#, "ä b"),
            ("anonymous", "", ""),
        ] {
            let read = principal(text, claims(json).as_ref()).expect(text);
            assert_eq!(read.name, name);
            assert_eq!(read.claims, claims(json).unwrap_or_default());
        }
    }
}
