//! Measures what Weir costs and saves, together with what it replaces, in one run.
//!
//! `cargo bench --bench performance` measures everything and writes `docs/performance.md`;
//! `-- --help` lists the parts and the sizes. The folders, from the basics to the page:
//!
//! - `system`: child processes, their CPU and memory, the machine;
//! - `upstream`: the database or its stand-in, and the writer;
//! - `gateway`: the servers that are compared;
//! - `client`: the readers;
//! - `parts`: the measurements;
//! - `report`: figures, charts and the page.
//!
//! Everything that is measured is a separate process: this program again, in another role, or
//! `weir serve`.

mod client;
mod gateway;
mod options;
mod parts;
mod report;
mod system;
mod upstream;

use clap::{Parser, Subcommand};

use crate::{
    client::{bystander, flood, load, reader},
    gateway::{naive, ready},
    options::{Options, Part},
    parts::{
        added_latency, builds, compression, fan_out, fields, filters, neighbours, one_watcher,
        stalled, steady,
    },
    report::{Measured, Results},
    system::{commands::Commands, machine::Machine, supervisor},
    upstream::{stand_in, writer},
};

#[derive(Debug, Parser)]
struct Arguments {
    #[command(flatten)]
    options: Options,
    /// Passed by cargo
    #[arg(long, hide = true)]
    bench: bool,
    #[command(subcommand)]
    role: Option<Role>,
}

/// The roles of this program as its own child.
#[derive(Debug, Subcommand)]
#[command(hide = true)]
enum Role {
    /// Reads events, and reports how long it took and what it cost
    Read(reader::Task),
    /// Writes at a steady rate, and reports the latency of each event
    Latency(added_latency::Task),
    /// Answers as a MongoDB server that has every event ready
    StandIn(stand_in::Task),
    /// Inserts documents on command
    Write(writer::Task),
    /// Opens many watches and counts events
    Load(load::Task),
    /// Watches, and writes what is watched, beside a flood
    Bystand(bystander::Task),
    /// Floods the server with calls
    Flood(flood::Task),
    /// Serves the Watch API in a straightforward way
    Naive(naive::Task),
    /// Serves encoded bytes
    Ready(ready::Task),
    /// Runs another program while the parent lives
    Supervise(supervisor::Task),
}

fn main() {
    let arguments = Arguments::parse();
    let Some(role) = &arguments.role else {
        let options = arguments.options;
        let options = if options.quick {
            options.quick()
        } else {
            options
        };
        return measure(&options);
    };
    if let Role::Supervise(task) = role {
        return supervisor::run(task);
    }
    let mut commands = Commands::listen();
    match role {
        Role::Read(task) => reader::run(task, &mut commands),
        Role::Latency(task) => added_latency::run(task),
        Role::StandIn(task) => stand_in::run(task, &mut commands),
        Role::Write(task) => writer::run(task, &mut commands),
        Role::Load(task) => load::run(task, &mut commands),
        Role::Bystand(task) => bystander::run(task, &mut commands),
        Role::Flood(task) => flood::run(task, &mut commands),
        Role::Naive(task) => naive::run(task),
        Role::Ready(task) => ready::run(task, &mut commands),
        Role::Supervise(_) => unreachable!("it listens by itself"),
    }
}

fn measure(options: &Options) {
    if let Some(program) = &options.beside {
        return builds::compare(program, options);
    }
    let machine = Machine::here();
    let command = command();
    let folder = options.folder();
    let names = Part::ALL.map(Part::name);
    let wanted = Part::ALL
        .into_iter()
        .filter(|part| !options.render && options.wants(*part));
    for part in wanted {
        eprintln!("measuring: {}", part.name());
        let mut results = Results::new(&machine, &command);
        match part {
            Part::Database => one_watcher::from_database(options, &mut results),
            Part::StandIn => one_watcher::from_stand_in(options, &mut results),
            Part::Live => one_watcher::live(options, &mut results),
            Part::AddedLatency => added_latency::measure(options, &mut results),
            Part::FanOut => fan_out::measure(options, &mut results),
            Part::Compression => compression::measure(options, &mut results),
            Part::Fields => fields::measure(options, &mut results),
            Part::Filters => filters::measure(options, &mut results),
            Part::Steady => steady::measure(options, &mut results),
            Part::Stalled => stalled::measure(options, &mut results),
            Part::Neighbours => neighbours::measure(options, &mut results),
        }
        // After each part, so that an aborted run keeps its results.
        let mut measured = Measured::load(&folder);
        measured.put(part.name(), results);
        measured.save(&folder, &names).expect("the page is written");
    }
    if options.render {
        let measured = Measured::load(&folder);
        measured.save(&folder, &names).expect("the page is written");
    }
    eprintln!("the page is {}", folder.join("performance.md").display());
}

/// The command that started this run.
fn command() -> String {
    let arguments: Vec<String> = std::env::args()
        .skip(1)
        .filter(|argument| argument != "--bench")
        .collect();
    if arguments.is_empty() {
        "make bench".to_owned()
    } else {
        format!("make bench BENCH=\"{}\"", arguments.join(" "))
    }
}
