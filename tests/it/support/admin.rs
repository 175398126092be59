//! An HTTP client for the admin port, and the samples in `/metrics`.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// GETs a path and returns the status and the body. HTTP/1.0, so that the body ends with the
/// connection.
pub async fn get(address: SocketAddr, path: &str) -> io::Result<(u16, String)> {
    request(
        address,
        &format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n"),
    )
    .await
}

/// Sends this request unchanged and returns the status and the body.
pub async fn request(address: SocketAddr, request: &str) -> io::Result<(u16, String)> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(request.as_bytes()).await?;
    let mut response = String::new();
    stream.read_to_string(&mut response).await?;
    let malformed = || io::Error::other(format!("this is not HTTP: {response:?}"));
    let (head, body) = response.split_once("\r\n\r\n").ok_or_else(malformed)?;
    let status = head
        .split_whitespace()
        .nth(1)
        .and_then(|status| status.parse().ok())
        .ok_or_else(malformed)?;
    Ok((status, body.to_owned()))
}

/// The samples of one scrape.
#[derive(Debug, Clone)]
pub struct Samples(BTreeMap<String, f64>);

impl Samples {
    /// Reads Prometheus's text format.
    pub fn parse(text: &str) -> Self {
        let samples = text
            .lines()
            .filter(|line| !line.is_empty() && !line.starts_with('#'))
            .map(|line| {
                // A label's value may contain spaces, the number cannot.
                let (series, value) = line
                    .rsplit_once(' ')
                    .unwrap_or_else(|| panic!("this is not a sample: {line:?}"));
                let value = value
                    .parse()
                    .unwrap_or_else(|_| panic!("this sample has no number: {line:?}"));
                (series.to_owned(), value)
            })
            .collect();
        Self(samples)
    }

    /// The sum of all samples of this name, whatever their labels; 0 when there are none.
    pub fn sum(&self, name: &str) -> f64 {
        self.sum_where(name, &[])
    }

    /// The sum of the samples with this name and all these labels; 0 when there are none.
    pub fn sum_where(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.0
            .iter()
            .filter(|(series, _)| series.split('{').next() == Some(name))
            .filter(|(series, _)| {
                labels.iter().all(|(label, value)| {
                    let pair = format!("{label}=\"{value}\"");
                    series.contains(&format!("{{{pair}")) || series.contains(&format!(",{pair}"))
                })
            })
            .map(|(_, value)| value)
            .sum()
    }

    /// Returns whether there is any sample with this name.
    pub fn has(&self, name: &str) -> bool {
        self.0
            .keys()
            .any(|series| series.split('{').next() == Some(name))
    }

    /// All samples: the series as `name{label="value"}`, and its number.
    pub fn iter(&self) -> impl Iterator<Item = (&str, f64)> {
        self.0
            .iter()
            .map(|(series, value)| (series.as_str(), *value))
    }
}
