//! Weir under load and faults for some seconds; see [`load`]. `make soak` runs the same for any
//! length of time.

use std::time::Duration;

use crate::load::{Settings, run};

/// Covers order, completeness, safe tokens, at-least-once delivery, true progress, slow watchers
/// and liveness under cut networks, killed processes, stalled clients and cancelled openings.
#[tokio::test(flavor = "multi_thread")]
async fn under_load_and_faults_nothing_is_lost_and_everything_is_released() {
    let seed = std::env::var("WEIR_LOAD_SEED").ok();
    let seed = seed.and_then(|it| it.parse().ok());
    let seed = seed.unwrap_or_else(|| fastrand::u64(..));
    println!("again: WEIR_LOAD_SEED={seed}");
    let settings = Settings {
        watchers: 150,
        connections: 8,
        rate: 50.0,
        large_rate: 1.0,
        whole: Duration::ZERO,
        load: Duration::from_secs(6),
        warm_up: Duration::from_secs(1),
        fault_pause: Duration::from_millis(700),
        fault_length: Duration::from_secs(1),
        longest_pause: Duration::from_secs(2),
        calm: Duration::from_secs(60),
        empty: Duration::from_secs(30),
        growth: f64::INFINITY,
        status_interval: Duration::from_secs(2),
        seed,
    };
    let outcome = run(&settings).await;
    assert!(outcome.is_ok(), "{}", outcome.unwrap_err().join("\n"));
}
