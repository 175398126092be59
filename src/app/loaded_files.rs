//! The content of the files that the settings name, read before anything is served.

use std::sync::Arc;

use super::{start_error::StartError, token_key_file::TokenKeyFile};
use crate::{
    admin::AdminAuth,
    auth::{AuthReloader, Authenticator},
    config::{ConfigError, ServeConfig},
    metrics::Metrics,
    policy::Policy,
    reload::ReloadedFiles,
    tls::Tls,
};

/// The parsed content of the files, and handles to reload them.
pub(super) struct LoadedFiles {
    pub tls: Option<(Arc<Tls>, ReloadedFiles)>,
    pub token_keys: Option<TokenKeyFile>,
    pub policy: Policy,
    pub policy_files: Option<ReloadedFiles>,
    pub authenticator: Authenticator,
    pub auth_reloader: AuthReloader,
    pub admin_auth: AdminAuth,
}

impl LoadedFiles {
    /// Reads and checks the files.
    ///
    /// # Errors
    /// If a file can't be used. The error names its flag.
    pub async fn read(config: &ServeConfig, metrics: Arc<Metrics>) -> Result<Self, StartError> {
        let tls = match config.tls.settings() {
            Some(settings) => {
                let (tls, files) = Tls::read(settings).await.map_err(StartError::Tls)?;
                Some((Arc::new(tls), files))
            }
            None => None,
        };
        let token_keys = match config.auth.token_key_file.clone() {
            Some(path) => Some(
                TokenKeyFile::read(path)
                    .await
                    .map_err(StartError::TokenKeys)?,
            ),
            None => None,
        };
        let (policy, policy_files) = match config.auth.policy_file.clone() {
            None => (Policy::allow_all(), None),
            Some(path) => {
                let read = Policy::read(path, token_keys.is_some()).await;
                let (policy, files) = read.map_err(|problem| ConfigError {
                    flag: "policy-file",
                    problem,
                })?;
                (policy, Some(files))
            }
        };
        let admin_auth = AdminAuth::read(
            config.auth.admin_token_file.clone(),
            config.admin.admin_host.clone(),
        )
        .await;
        let auth = config.auth.settings(config.reload_interval);
        let (authenticator, auth_reloader) = Authenticator::new(auth, metrics).await?;
        Ok(Self {
            tls,
            token_keys,
            policy,
            policy_files,
            authenticator,
            auth_reloader,
            admin_auth: admin_auth.map_err(|problem| ConfigError {
                flag: "admin-token-file",
                problem,
            })?,
        })
    }
}
