//! The handles of metrics: what moves one series, or those of every label value.

use std::{
    collections::HashMap,
    fmt,
    fmt::Write as _,
    marker::PhantomData,
    sync::{Arc, Mutex, PoisonError},
};

use metrics::{Counter, Gauge, Histogram, Key, Label, Level, Metadata, Recorder as _};
use metrics_exporter_prometheus::PrometheusRecorder;

use crate::model::escape_controls;

use super::labels::{ClosedLabels, Labels, OpenLabels};

/// The metadata of every series. The recorder does not look at it.
const METADATA: Metadata<'static> = Metadata::new("weir", Level::INFO, None);

/// The names of one metric, as the catalogue has them.
#[derive(Debug, Clone, Copy)]
pub struct Names {
    /// The metric's name.
    pub name: &'static str,
    /// The names of its labels.
    pub labels: &'static [&'static str],
    /// The help text.
    pub help: &'static str,
}

impl Names {
    fn key(&self, labels: impl Labels) -> Key {
        let labels = self.labels.iter().copied().zip(labels.values());
        let labels: Vec<Label> = labels
            .map(|(name, value)| Label::new(name, value))
            .collect();
        Key::from_parts(self.name, labels)
    }
}

/// The handle that moves one series.
pub trait Series: Clone + Sized {
    /// The Prometheus type: counter, gauge or histogram.
    const KIND: &'static str;

    /// Returns the handle of a series, which the recorder exposes from then on.
    fn of_key(recorder: &PrometheusRecorder, key: &Key) -> Self;
}

impl Series for Counter {
    const KIND: &'static str = "counter";

    fn of_key(recorder: &PrometheusRecorder, key: &Key) -> Self {
        recorder.register_counter(key, &METADATA)
    }
}

impl Series for Gauge {
    const KIND: &'static str = "gauge";

    fn of_key(recorder: &PrometheusRecorder, key: &Key) -> Self {
        recorder.register_gauge(key, &METADATA)
    }
}

impl Series for Histogram {
    const KIND: &'static str = "histogram";

    fn of_key(recorder: &PrometheusRecorder, key: &Key) -> Self {
        recorder.register_histogram(key, &METADATA)
    }
}

/// The handle of an entry of the catalogue.
pub trait Handle: Sized {
    /// The Prometheus type: counter, gauge or histogram.
    const KIND: &'static str;

    /// Returns the handle of the metric with these names.
    fn register(recorder: &Arc<PrometheusRecorder>, names: Names) -> Self;
}

/// One series without labels, exposed from the start.
impl<S: Series> Handle for S {
    const KIND: &'static str = S::KIND;

    fn register(recorder: &Arc<PrometheusRecorder>, names: Names) -> Self {
        S::of_key(recorder, &names.key(()))
    }
}

/// A series for every combination of label values, all exposed from the start. Looking one up takes no lock.
pub struct Table<S, L> {
    series: Box<[S]>,
    labels: PhantomData<fn(L)>,
}

impl<S, L: ClosedLabels> Table<S, L> {
    /// Returns the series with these labels.
    pub fn of(&self, labels: L) -> &S {
        &self.series[labels.index()]
    }
}

impl<S: Series, L: ClosedLabels> Handle for Table<S, L> {
    const KIND: &'static str = S::KIND;

    fn register(recorder: &Arc<PrometheusRecorder>, names: Names) -> Self {
        Self {
            series: L::all()
                .map(|labels| S::of_key(recorder, &names.key(labels)))
                .collect(),
            labels: PhantomData,
        }
    }
}

/// The series of label values that come up while the server runs. Each is exposed once it was asked for.
pub struct Family<S, L> {
    names: Names,
    recorder: Arc<PrometheusRecorder>,
    series: Mutex<HashMap<L, S>>,
}

impl<S: Series, L: OpenLabels> Family<S, L> {
    /// Returns the series with these labels, which must be of a closed set.
    #[must_use]
    pub fn of(&self, labels: L) -> S {
        let mut series = self.series.lock().unwrap_or_else(PoisonError::into_inner);
        let known = series.entry(labels);
        known
            .or_insert_with(|| S::of_key(&self.recorder, &self.names.key(labels)))
            .clone()
    }

    /// Exposes the series with these labels. A counter that appears with its first increment is missing from
    /// rates, and an alert on it would miss that increment.
    pub fn expose(&self, labels: impl IntoIterator<Item = L>) {
        for labels in labels {
            drop(self.of(labels));
        }
    }
}

impl<S: Series, L: OpenLabels> Handle for Family<S, L> {
    const KIND: &'static str = S::KIND;

    fn register(recorder: &Arc<PrometheusRecorder>, names: Names) -> Self {
        Self {
            names,
            recorder: Arc::clone(recorder),
            series: Mutex::default(),
        }
    }
}

impl<S, L> fmt::Debug for Table<S, L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Table").finish_non_exhaustive()
    }
}

impl<S, L> fmt::Debug for Family<S, L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Family").finish_non_exhaustive()
    }
}

/// A gauge that is measured only when Prometheus scrapes.
#[derive(Debug)]
pub struct Scraped(Names);

impl Scraped {
    /// Writes the value, unless there is none now.
    pub(super) fn write(&self, page: &mut String, value: Option<f64>) {
        self.write_samples(page, value.map(|value| (String::new(), value)));
    }

    /// Writes a sample for each value of the only label.
    pub(super) fn write_each<'a>(
        &self,
        page: &mut String,
        samples: impl IntoIterator<Item = (&'a str, f64)>,
    ) {
        let name = self.0.labels.first().copied().unwrap_or_default();
        let labelled = samples
            .into_iter()
            .map(|(label, value)| (format!("{{{name}=\"{}\"}}", escaped(label)), value));
        self.write_samples(page, labelled);
    }

    fn write_samples(&self, page: &mut String, samples: impl IntoIterator<Item = (String, f64)>) {
        let Names { name, help, .. } = self.0;
        // Writing to a string never fails.
        let _ = writeln!(page, "# HELP {name} {help}\n# TYPE {name} gauge");
        for (labels, value) in samples {
            let _ = writeln!(page, "{name}{labels} {value}");
        }
    }
}

impl Handle for Scraped {
    const KIND: &'static str = "gauge";

    fn register(_: &Arc<PrometheusRecorder>, names: Names) -> Self {
        Self(names)
    }
}

fn escaped(value: &str) -> String {
    escape_controls(value)
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}
