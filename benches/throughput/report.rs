//! The tables: Markdown that is aligned, so that it reads on a terminal too.

use crate::{reader::Sample, way::Way};

/// What one part measured.
#[derive(Debug)]
pub struct Table {
    title: String,
    /// The goal for events a second, as a multiple of the driver's.
    goal: f64,
    samples: Vec<(Way, Sample)>,
}

impl Table {
    /// An empty table.
    pub fn new(title: &str, goal: f64) -> Self {
        Self {
            title: title.to_owned(),
            goal,
            samples: Vec::new(),
        }
    }

    /// Adds what one reading took, and shows it as it comes.
    pub fn add(&mut self, way: Way, sample: Sample) {
        eprintln!(
            "{}: {:.0} events/s, reader {:.2} µs, Weir {:.2} µs an event",
            way.name(),
            rate(&sample),
            cost(&sample, sample.reader.as_secs_f64()),
            cost(&sample, sample.weir.as_secs_f64()),
        );
        self.samples.push((way, sample));
    }

    /// Prints medians and, in brackets, the least and the most.
    pub fn print(&self) {
        let mut rows = vec![texts(&[
            "reader",
            "events/s",
            "CPU of the reader, s",
            "CPU of Weir, s",
            "reader, µs/event",
            "Weir, µs/event",
        ])];
        for way in Way::ALL {
            let of = |value: &dyn Fn(&Sample) -> f64| {
                Spread::of(self.of(way).iter().map(value).collect())
            };
            let through_weir = way.through_weir();
            let weir = |value: Spread, digits| {
                if through_weir {
                    value.text(digits)
                } else {
                    "none".to_owned()
                }
            };
            rows.push(vec![
                way.name().to_owned(),
                of(&rate).text(0),
                of(&|it| it.reader.as_secs_f64()).text(2),
                weir(of(&|it| it.weir.as_secs_f64()), 2),
                of(&|it| cost(it, it.reader.as_secs_f64())).text(2),
                weir(of(&|it| cost(it, it.weir.as_secs_f64())), 2),
            ]);
        }
        print(&self.title, &rows);

        let mut rows = vec![texts(&["against the driver", "measured", "goal"])];
        for way in [Way::Weir, Way::WeirDecoding] {
            let goal = format!("at least {:.1}", self.goal);
            for (driver, asking) in [
                (Way::Driver, ""),
                (Way::DriverSplitting, ", asked for the same"),
            ] {
                rows.push(vec![
                    format!("events/s, {}{asking}", way.name()),
                    self.against(driver, way, rate, rate).text(2),
                    goal.clone(),
                ]);
            }
        }
        let reader = |it: &Sample| it.reader.as_secs_f64();
        let weir = |it: &Sample| it.weir.as_secs_f64();
        rows.push(vec![
            "CPU of Weir's server, per CPU of the driver's reader".to_owned(),
            self.against(Way::Driver, Way::Weir, weir, reader).text(2),
            "at most 0.5".to_owned(),
        ]);
        print("Ratios, round by round", &rows);
    }

    fn of(&self, way: Way) -> Vec<Sample> {
        let samples = self.samples.iter().filter(|(of, _)| *of == way);
        samples.map(|(_, sample)| *sample).collect()
    }

    /// `value` of each round's reading through Weir, divided by `by` of the same round's driver.
    fn against(
        &self,
        driver: Way,
        way: Way,
        value: impl Fn(&Sample) -> f64,
        by: impl Fn(&Sample) -> f64,
    ) -> Spread {
        let pairs = self.of(way).into_iter().zip(self.of(driver));
        Spread::of(
            pairs
                .map(|(weir, driver)| value(&weir) / by(&driver))
                .collect(),
        )
    }
}

fn rate(sample: &Sample) -> f64 {
    sample.events as f64 / sample.wall.as_secs_f64()
}

/// Microseconds for each event.
fn cost(sample: &Sample, seconds: f64) -> f64 {
    seconds * 1e6 / sample.events as f64
}

/// A median between the least and the most.
#[derive(Debug, Clone, Copy)]
struct Spread {
    least: f64,
    median: f64,
    most: f64,
}

impl Spread {
    fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        let at = |index: usize| values.get(index).copied().unwrap_or(f64::NAN);
        let middle = values.len() / 2;
        let median = if values.len().is_multiple_of(2) {
            f64::midpoint(at(middle.wrapping_sub(1)), at(middle))
        } else {
            at(middle)
        };
        Self {
            least: at(0),
            median,
            most: at(values.len().wrapping_sub(1)),
        }
    }

    fn text(self, digits: usize) -> String {
        let Self {
            least,
            median,
            most,
        } = self;
        format!("{median:.digits$} ({least:.digits$} to {most:.digits$})")
    }
}

fn texts(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|&text| text.to_owned()).collect()
}

/// Prints a Markdown table, the first row of which is its head.
pub fn print(title: &str, rows: &[Vec<String>]) {
    let columns = rows.first().map_or(0, Vec::len);
    let widths: Vec<usize> = (0..columns)
        .map(|column| {
            let cells = rows.iter().map(|row| row[column].chars().count());
            cells.max().unwrap_or(0)
        })
        .collect();
    println!("{title}\n");
    for (index, row) in rows.iter().enumerate() {
        let cells = row
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!(" {cell:<width$} "));
        println!("|{}|", cells.collect::<Vec<_>>().join("|"));
        if index == 0 {
            let lines = widths.iter().map(|width| "-".repeat(width + 2));
            println!("|{}|", lines.collect::<Vec<_>>().join("|"));
        }
    }
    println!();
}
