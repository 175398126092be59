//! A real Prometheus scrapes a real Weir and evaluates the rules.

use std::{fs, net::TcpListener, path::Path};

use crate::support::orders::{ORDERS, insert};
use crate::support::{ChildProcess, Database, Weir, eventually, get, program, repository, within};
use serde_json::Value;

/// The number of open watches.
const OPEN: usize = 3;

/// Prometheus, with its own port and folder.
struct Prometheus {
    process: ChildProcess,
    address: std::net::SocketAddr,
}

impl Prometheus {
    fn start(folder: &Path, target: &str, token: Option<&Path>) -> Self {
        let rules = repository().join("helm/weir/files/rules.yaml");
        let token = token.map_or_else(String::new, |path| {
            format!("    authorization: {{credentials_file: {path:?}}}\n")
        });
        let config = format!(
            "global: {{scrape_interval: 250ms, evaluation_interval: 250ms}}\n\
             rule_files: [{rules:?}]\n\
             scrape_configs:\n  - job_name: weir\n{token}    \
             static_configs:\n      - {{targets: [{target:?}], labels: {{namespace: prod}}}}\n"
        );
        let path = folder.join("prometheus.yml");
        fs::write(&path, config).expect("a config");
        // It does not report which port the kernel chose, so the test picks a port that was free a
        // moment ago.
        let address = TcpListener::bind("127.0.0.1:0").and_then(|it| it.local_addr());
        let address = address.expect("a free port");
        let arguments = [
            format!("--config.file={}", path.display()),
            format!("--storage.tsdb.path={}", folder.join("data").display()),
            format!("--web.listen-address={address}"),
        ];
        let process = ChildProcess::start("prometheus", program("prometheus"), arguments);
        Self { process, address }
    }

    async fn api(&self, path: &str) -> Option<Value> {
        let (status, body) = within("Prometheus answers", get(self.address, path))
            .await
            .ok()?;
        (status == 200).then(|| serde_json::from_str(&body).expect("Prometheus speaks JSON"))
    }

    /// The value of an expression that yields one sample.
    async fn value(&self, expr: &str) -> Option<f64> {
        let encoded: String = expr
            .bytes()
            .map(|byte| match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' => char::from(byte).to_string(),
                other => format!("%{other:02X}"),
            })
            .collect();
        let answer = self.api(&format!("/api/v1/query?query={encoded}")).await?;
        let result = answer["data"]["result"].as_array()?;
        assert!(result.len() <= 1, "{expr}: {answer}");
        result.first()?["value"][1].as_str()?.parse().ok()
    }

    async fn until(&self, expr: &str, expected: impl Fn(f64) -> bool) {
        eventually(&format!("{expr}{}", self.process), async || {
            self.value(expr).await.is_some_and(&expected)
        })
        .await;
    }
}

#[tokio::test]
async fn prometheus_scrapes_the_metrics_and_evaluates_every_rule() {
    let database = Database::start().await;
    let weir = Weir::start(&database).await;
    let folder = tempfile::tempdir().expect("a folder");
    let target = weir.admin_addr().to_string();
    let prometheus = Prometheus::start(folder.path(), &target, None);
    prometheus.until("up{job=\"weir\"}", |up| up == 1.0).await;

    let mut open = Vec::new();
    for _ in 0..OPEN {
        open.push(weir.watch(database.watch_request(&[ORDERS])).await);
    }
    insert(&database, 1).await;
    for watch in &mut open {
        watch.next_change().await;
    }
    let live = "weir_watches{state=\"live\", namespace=\"prod\"}";
    prometheus.until(live, |live| live == OPEN as f64).await;
    prometheus
        .until("instance:weir_watches:sum", |sum| sum == OPEN as f64)
        .await;
    prometheus.until("weir_ready", |ready| ready == 1.0).await;
    // The watched namespace keeps its own label beside Kubernetes' namespace.
    let scope = format!("{}.{ORDERS}", database.name());
    let lag = format!("weir_feed_lag_seconds{{scope={scope:?}, namespace=\"prod\"}}");
    prometheus.until(&lag, |lag| lag >= 0.0).await;
    let near = "instance:weir_limit_used:ratio{limit=\"watches\"}";
    prometheus
        .until(near, |ratio| (ratio - 3.0 / 10_000.0).abs() < 1e-9)
        .await;
    // A counter that was 0 before shows its first increase.
    drop(open.pop());
    let ended = "increase(weir_watches_ended_total{reason=\"cancelled\"}[1m])";
    prometheus.until(ended, |ended| ended > 0.0).await;
    insert(&database, 2).await;
    for watch in &mut open {
        watch.next_change().await;
    }
    let quantile =
        "histogram_quantile(0.99, sum by (le) (rate(weir_delivery_lag_seconds_bucket[1m])))";
    prometheus
        .until(quantile, |lag| lag > 0.0 && lag < 60.0)
        .await;

    let rules = prometheus.api("/api/v1/rules").await.expect("the rules");
    let groups = rules["data"]["groups"].as_array().expect("groups");
    let rules: Vec<&Value> = groups
        .iter()
        .flat_map(|group| group["rules"].as_array().expect("rules"))
        .collect();
    assert!(rules.len() > 30, "{}", rules.len());
    eventually("every rule has been evaluated without error", async || {
        let rules = prometheus.api("/api/v1/rules").await.expect("the rules");
        let groups = rules["data"]["groups"].as_array().expect("groups");
        let mut rules = groups
            .iter()
            .flat_map(|group| group["rules"].as_array().expect("rules"));
        rules.all(|rule| {
            assert!(rule.get("lastError").is_none(), "{rule}");
            rule["health"] == "ok"
        })
    })
    .await;
    let firing = prometheus
        .value("count(ALERTS{alertstate=\"firing\"})")
        .await;
    // The oplog of a test's database is as old as the test, so that its slowest watch is near its
    // end.
    assert!(firing.is_none_or(|count| count <= 2.0), "{firing:?}");
}

#[tokio::test]
async fn prometheus_scrapes_the_metrics_only_with_the_admin_ports_token() {
    let database = Database::start().await;
    let folder = tempfile::tempdir().expect("a folder");
    let token = folder.path().join("token");
    fs::write(&token, "a token for Prometheus alone".replace(' ', "-")).expect("a token");
    let weir = Weir::with(&database, |config| {
        config.auth.admin_token_file = Some(token.clone());
    })
    .await;
    let target = weir.admin_addr().to_string();
    let other = tempfile::tempdir().expect("a folder");
    let with = Prometheus::start(folder.path(), &target, Some(&token));
    let without = Prometheus::start(other.path(), &target, None);
    with.until("up", |up| up == 1.0).await;
    without.until("up", |up| up == 0.0).await;
}
