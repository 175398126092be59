//! Checks of single values, with the error for one that can't be used.

use std::{
    net::{IpAddr, SocketAddr},
    ops::RangeInclusive,
    time::Duration,
};

use bytesize::ByteSize;

/// A setting that can't be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("--{flag}: {problem}")]
pub struct ConfigError {
    /// The flag's name, without dashes.
    pub flag: &'static str,
    /// The problem and the right form.
    pub problem: String,
}

impl ConfigError {
    /// Returns the error for a flag that has no effect without another one. Whoever sets it believes in a
    /// protection that is not there.
    pub(super) fn without_effect(flag: &'static str, needed: &str) -> Self {
        Self {
            flag,
            problem: format!("has no effect without {needed}: add that, or remove this setting"),
        }
    }
}

/// Checks that both ports can be bound.
pub(super) fn check_addresses(listen: SocketAddr, admin: SocketAddr) -> Result<(), ConfigError> {
    let (one, other) = (listen.ip().to_canonical(), admin.ip().to_canonical());
    // Linux accepts IPv4 connections too on the address of all IPv6 interfaces.
    let covers =
        |all: IpAddr, one: IpAddr| all.is_unspecified() && (all.is_ipv6() || one.is_ipv4());
    let overlap = one == other || covers(one, other) || covers(other, one);
    if listen.port() == 0 || listen.port() != admin.port() || !overlap {
        return Ok(());
    }
    Err(ConfigError {
        flag: "admin-listen",
        problem: format!("{admin} is also the address of --listen, {listen}: use another port"),
    })
}

pub(super) fn check_count(
    flag: &'static str,
    value: usize,
    min: usize,
    max: usize,
) -> Result<(), ConfigError> {
    check_range(flag, value, min..=max, usize::to_string)
}

pub(super) fn check_bytes(
    flag: &'static str,
    value: ByteSize,
    min: ByteSize,
    max: ByteSize,
) -> Result<(), ConfigError> {
    check_range(flag, value, min..=max, ByteSize::to_string)
}

pub(super) fn check_duration(
    flag: &'static str,
    value: Duration,
    min: Duration,
    max: Duration,
) -> Result<(), ConfigError> {
    let text = |it: &Duration| humantime::format_duration(*it).to_string();
    check_range(flag, value, min..=max, text)
}

fn check_range<T: PartialOrd>(
    flag: &'static str,
    value: T,
    range: RangeInclusive<T>,
    text: impl Fn(&T) -> String,
) -> Result<(), ConfigError> {
    if range.contains(&value) {
        return Ok(());
    }
    let (value, min, max) = (text(&value), text(range.start()), text(range.end()));
    Err(ConfigError {
        flag,
        problem: format!("{value} is out of range: use {min} to {max}"),
    })
}
