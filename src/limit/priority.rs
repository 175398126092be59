//! The priority of threads.

/// Lowers the priority of this thread by `nice`, in the kernel's unit: from 1, a tenth less than other threads, to 19,
/// next to nothing while others have something to do. Only Linux has priorities of threads; elsewhere this does nothing.
pub fn lower_priority(nice: i32) {
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::process::setpriority_process(None, nice) {
        tracing::debug!(%error, "the priority of a thread could not be lowered");
    }
    #[cfg(not(target_os = "linux"))]
    let _ = nice;
}
