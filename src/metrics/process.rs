//! The metrics of the process, by the names that Prometheus' client libraries share.

use std::fmt::Write as _;

/// Appends the metrics of this process, measured now. A value that can't be read is left out, and so are all
/// where the system has no `/proc`.
pub(super) fn write(page: &mut String) {
    for Metric {
        name,
        kind,
        help,
        value,
    } in measured()
    {
        // Writing to a string never fails.
        let _ = writeln!(
            page,
            "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}\n"
        );
    }
}

struct Metric {
    name: &'static str,
    kind: &'static str,
    help: &'static str,
    value: f64,
}

#[cfg(target_os = "linux")]
#[expect(
    clippy::cast_precision_loss,
    reason = "times, sizes and counts of a process are far below 2^53"
)]
fn measured() -> impl Iterator<Item = Metric> {
    use procfs::{
        WithCurrentSystemInfo as _,
        process::{LimitValue, Process},
    };

    let process = Process::myself().ok();
    let stat = process.as_ref().and_then(|it| it.stat().ok());
    let limits = process.as_ref().and_then(|it| it.limits().ok());
    let stat = stat.as_ref();
    let ticks = procfs::ticks_per_second() as f64;
    let value = |limit: Option<LimitValue>| match limit {
        Some(LimitValue::Value(value)) => Some(value as f64),
        // There is no number to compare the use with.
        Some(LimitValue::Unlimited) | None => None,
    };
    let boot = procfs::boot_time_secs().ok();
    let start = stat.zip(boot);
    let fds = process.as_ref().and_then(|it| it.fd_count().ok());
    let max_fds = limits.as_ref().map(|it| it.max_open_files.soft_limit);
    let max_memory = limits.as_ref().map(|it| it.max_address_space.soft_limit);
    let metrics = [
        (
            "process_cpu_seconds_total",
            "counter",
            "Total user and system CPU time spent, in seconds.",
            stat.map(|it| (it.utime + it.stime) as f64 / ticks),
        ),
        (
            "process_open_fds",
            "gauge",
            "Number of open file descriptors.",
            fds.map(|it| it as f64),
        ),
        (
            "process_max_fds",
            "gauge",
            "Maximum number of open file descriptors; absent where there is none.",
            value(max_fds),
        ),
        (
            "process_virtual_memory_bytes",
            "gauge",
            "Virtual memory size, in bytes.",
            stat.map(|it| it.vsize as f64),
        ),
        (
            "process_virtual_memory_max_bytes",
            "gauge",
            "Maximum virtual memory size, in bytes; absent where there is none.",
            value(max_memory),
        ),
        (
            "process_resident_memory_bytes",
            "gauge",
            "Resident memory size, in bytes.",
            stat.map(|it| it.rss_bytes().get() as f64),
        ),
        (
            "process_start_time_seconds",
            "gauge",
            "Start time of the process, in seconds since 1970.",
            start.map(|(it, boot)| boot as f64 + it.starttime as f64 / ticks),
        ),
        (
            "process_threads",
            "gauge",
            "Number of threads of the process.",
            stat.map(|it| it.num_threads as f64),
        ),
    ];
    metrics.into_iter().filter_map(|(name, kind, help, value)| {
        value.map(|value| Metric {
            name,
            kind,
            help,
            value,
        })
    })
}

#[cfg(not(target_os = "linux"))]
fn measured() -> impl Iterator<Item = Metric> {
    std::iter::empty()
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn a_process_knows_its_time_memory_files_and_threads() {
        let measured: Vec<Metric> = measured().collect();
        let value = |name: &str| {
            measured
                .iter()
                .find(|it| it.name == name)
                .map(|it| it.value)
        };
        let now = std::time::SystemTime::UNIX_EPOCH
            .elapsed()
            .expect("after 1970")
            .as_secs_f64();
        let age = now - value("process_start_time_seconds").expect("a start");
        // The time of boot is known in whole seconds.
        assert!((-2.0..86_400.0).contains(&age), "{age}");
        // All threads together can't have used more.
        let cpu = value("process_cpu_seconds_total").expect("a time");
        assert!((0.0..(age + 2.0) * 1024.0).contains(&cpu), "{cpu}");
        let resident = value("process_resident_memory_bytes").expect("a size");
        let virtual_size = value("process_virtual_memory_bytes").expect("a size");
        assert!(resident > 1e6 && resident < virtual_size);
        let open = value("process_open_fds").expect("a number");
        assert!(open >= 3.0 && value("process_max_fds").is_none_or(|max| open <= max));
        assert!(value("process_threads").expect("a number") >= 1.0);
        let mut page = String::new();
        write(&mut page);
        let kinds = page.lines().filter(|line| line.starts_with("# TYPE"));
        assert_eq!(kinds.count(), measured.len());
        assert!(
            page.contains("# TYPE process_cpu_seconds_total counter\nprocess_cpu_seconds_total ")
        );
    }
}
