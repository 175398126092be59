//! The results, and the page that reports them.
//!
//! The figures of each part stay in `performance/measured.json` beside the page, so that measuring
//! one part again leaves the others unchanged. The page is the text of `page.md` with the figures
//! filled in.

pub mod chart;
pub mod spread;
pub mod table;

use std::{collections::BTreeMap, fs, path::Path, time::SystemTime};

use serde::{Deserialize, Serialize};

use self::{chart::Chart, table::Table};
use crate::system::machine::Machine;

/// The text for a part that has not been measured.
const NOTHING: &str = "*Not measured yet.*";

/// The figures of every part, by name.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Measured(BTreeMap<String, Results>);

/// The figures of one part.
#[derive(Debug, Serialize, Deserialize)]
pub struct Results {
    command: String,
    date: String,
    machine: Machine,
    /// Markdown by name.
    blocks: BTreeMap<String, String>,
    charts: BTreeMap<String, Chart>,
    goals: Vec<Goal>,
}

/// A goal and its result.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Goal {
    what: String,
    goal: String,
    measured: String,
    met: bool,
}

impl Results {
    /// Empty results of a run that starts now.
    pub fn new(machine: &Machine, command: &str) -> Self {
        let now = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
        Self {
            command: command.to_owned(),
            date: now.split('T').next().unwrap_or_default().to_owned(),
            machine: machine.clone(),
            blocks: BTreeMap::new(),
            charts: BTreeMap::new(),
            goals: Vec::new(),
        }
    }

    /// Adds and prints a table.
    pub fn table(&mut self, name: &str, title: &str, table: &Table) {
        let text = format!("{title}\n\n{}", table.markdown());
        println!("{text}");
        self.blocks.insert(name.to_owned(), text);
    }

    /// Adds a chart; its name is also that of its file.
    pub fn chart(&mut self, name: &str, chart: Chart) {
        self.charts.insert(name.to_owned(), chart);
    }

    /// Adds a goal with an upper or lower bound.
    pub fn goal(&mut self, what: &str, bound: Bound, measured: f64, text: String) {
        let met = bound.holds(measured);
        let goal = Goal {
            what: what.to_owned(),
            goal: bound.text(),
            measured: text,
            met,
        };
        println!(
            "goal: {what}: {}, measured {}: {}\n",
            goal.goal,
            goal.measured,
            yes_or_no(met)
        );
        self.goals.push(goal);
    }
}

/// The bound of a goal.
#[derive(Debug, Clone, Copy)]
pub enum Bound {
    AtMost(f64, &'static str),
    AtLeast(f64, &'static str),
}

impl Bound {
    fn holds(self, value: f64) -> bool {
        match self {
            Self::AtMost(most, _) => value <= most,
            Self::AtLeast(least, _) => value >= least,
        }
    }

    fn text(self) -> String {
        match self {
            Self::AtMost(most, unit) => format!("at most {most}{unit}"),
            Self::AtLeast(least, unit) => format!("at least {least}{unit}"),
        }
    }
}

fn yes_or_no(met: bool) -> &'static str {
    if met { "met" } else { "missed" }
}

impl Measured {
    /// The figures in a folder; empty where there is no such file.
    pub fn load(folder: &Path) -> Self {
        let Ok(text) = fs::read_to_string(folder.join("performance/measured.json")) else {
            return Self::default();
        };
        serde_json::from_str(&text).expect("measured.json is as this program wrote it")
    }

    /// Replaces a part's figures.
    pub fn put(&mut self, part: &str, results: Results) {
        self.0.insert(part.to_owned(), results);
    }

    /// Writes figures, charts and page; `parts` is the order of the goals.
    pub fn save(&self, folder: &Path, parts: &[&str]) -> std::io::Result<()> {
        let beside = folder.join("performance");
        fs::create_dir_all(&beside)?;
        let mut text = serde_json::to_string_pretty(self).map_err(std::io::Error::other)?;
        text.push('\n');
        fs::write(beside.join("measured.json"), text)?;
        for (name, chart) in self.0.values().flat_map(|it| &it.charts) {
            fs::write(beside.join(format!("{name}.svg")), chart.svg())?;
        }
        fs::write(folder.join("performance.md"), self.page(parts))
    }

    fn page(&self, parts: &[&str]) -> String {
        let lines = include_str!("page.md").lines().map(|line| {
            let Some(name) = line
                .strip_prefix("{{")
                .and_then(|line| line.strip_suffix("}}"))
            else {
                return line.to_owned();
            };
            match name {
                "goals" => self.goals(parts),
                "runs" => self.runs(parts),
                _ => self.block(name).unwrap_or_else(|| NOTHING.to_owned()),
            }
        });
        let mut page = lines.collect::<Vec<_>>().join("\n");
        page.push('\n');
        page
    }

    /// The table or chart named `part/name`.
    fn block(&self, name: &str) -> Option<String> {
        let (part, name) = name.split_once('/')?;
        let results = self.0.get(part)?;
        if let Some(text) = results.blocks.get(name) {
            return Some(text.trim_end().to_owned());
        }
        let title = match results.charts.get(name)? {
            Chart::Lines { title, .. } | Chart::Dots { title, .. } => title,
        };
        Some(format!("![{title}](performance/{name}.svg)"))
    }

    fn of<'a>(&'a self, parts: &'a [&str]) -> impl Iterator<Item = (&'a str, &'a Results)> {
        let known = parts.iter().map(|part| (*part, self.0.get(*part)));
        known.filter_map(|(part, results)| Some((part, results?)))
    }

    fn goals(&self, parts: &[&str]) -> String {
        let mut table = Table::new(["goal", "wanted", "measured", ""]);
        for goal in self.of(parts).flat_map(|(_, results)| &results.goals) {
            let met = yes_or_no(goal.met);
            table.add([&goal.what, &goal.goal, &goal.measured, met]);
        }
        table.markdown().trim_end().to_owned()
    }

    /// The date, command and machine of each part's measurement.
    fn runs(&self, parts: &[&str]) -> String {
        let mut runs: Vec<(&str, &str, Vec<&str>)> = Vec::new();
        for (part, results) in self.of(parts) {
            let (command, date) = (results.command.as_str(), results.date.as_str());
            match runs
                .iter_mut()
                .find(|run| (run.0, run.1) == (command, date))
            {
                Some(run) => run.2.push(part),
                None => runs.push((command, date, vec![part])),
            }
        }
        let mut text = String::new();
        for (command, date, parts) in runs {
            text += &format!(
                "On {date}: {}.\n\n```\n{command}\n```\n\n",
                parts.join(", ")
            );
        }
        let mut machines: Vec<&Machine> = Vec::new();
        for (_, results) in self.of(parts) {
            if !machines.contains(&&results.machine) {
                machines.push(&results.machine);
            }
        }
        for machine in machines {
            let versions = machine
                .versions
                .iter()
                .map(|(name, version)| format!("{name} {version}"));
            text += &format!(
                "{} cores ({}), {} GiB, Linux {}; {}; {}.\n\n",
                machine.cores,
                machine.processor,
                machine.memory_gib,
                machine.kernel,
                machine.rustc,
                versions.collect::<Vec<_>>().join(", ")
            );
        }
        text.trim_end().to_owned()
    }
}
