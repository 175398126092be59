//! Authentication: from the credentials of a request and its connection to a [`Principal`].
//!
//! [`credentials`] extracts the credentials of a request. [`jwt`] verifies bearer tokens with a [`key_set`]
//! that comes from a file or from [`key_fetcher`]; [`api_keys`] and [`certificate`] verify the rest. Invalid
//! credentials are always rejected, even if the request has other, valid ones.

mod api_keys;
mod authenticator;
mod certificate;
mod credentials;
mod jwt;
mod key_fetcher;
mod key_set;
mod peer;
mod principal;
mod settings;

pub use api_keys::{ApiKey, MIN_KEY_CHARS, is_api_key};
pub use authenticator::{AuthReloader, Authenticator, SetupError};
pub use certificate::{CERTIFICATE_CLAIMS, is_valid_certificate_name};
pub use credentials::API_KEY_HEADER;
pub use peer::Peer;
pub use principal::{
    CredentialFingerprint, MAX_NAME_BYTES, Method, Principal, is_valid_principal_name,
};
pub use settings::{AuthSettings, JwtKeys, JwtSettings, RemoteKeys};
