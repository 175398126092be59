//! Settings of who may use the admin port, besides its token.

use clap::Args;

use crate::admin::AdminHost;

/// Who may use the admin port.
#[derive(Debug, Clone, Args)]
pub struct AdminConfig {
    /// The DNS names by which /metrics may be called, separated by commas, such as weir.example.com or
    /// *.example.com. IP addresses, localhost, names without a dot, and names that end in .svc or
    /// .svc.cluster.local need not be listed. Others are refused, because a web page may have them resolve to this
    /// port. With --admin-token-file any name is accepted
    #[arg(
        long,
        env = "WEIR_ADMIN_HOST",
        value_name = "NAMES",
        value_delimiter = ','
    )]
    pub admin_host: Vec<AdminHost>,

    /// Serve /metrics on an --admin-listen address that is not loopback without --admin-token-file, and do not
    /// warn of it. Everyone who reaches the port can read which databases and collections are watched. Use it
    /// where a firewall or a network policy decides who does
    #[arg(long, env = "WEIR_ALLOW_OPEN_METRICS")]
    pub allow_open_metrics: bool,
}
