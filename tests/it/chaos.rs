//! Random network and process faults, several at a time, while writers write and clients of every
//! kind watch: no client misses anything.
//!
//! `WEIR_FAULT_SEED` replays the schedule of a failure, and `WEIR_FAULT_ROUNDS` sets the number of
//! rounds.

use std::time::Duration;

use crate::support::ledger::WriteOptions;
use crate::support::{Direction, FailCommand, Mode, Proxy, Side};
use crate::testbed::{Replicas, wait_for_writes, write_options};

/// Rounds of one to three faults at a time.
const ROUNDS: u32 = 8;
const SERVERS: usize = 2;
/// Longer than a reply and its probe may take, and longer than a client tolerates silence.
const LONGEST: Duration = Duration::from_millis(3500);
/// The longest duration of most faults.
const SHORT: Duration = Duration::from_millis(700);

/// A fault.
#[derive(Debug, Clone, Copy)]
enum Fault {
    /// In the network between the servers and MongoDB, or between the clients and one server.
    Network(Option<usize>, Break),
    /// In a command of Weir's.
    Command(Failing),
    KillCursors,
    KillMongodb,
    /// With this signal.
    EndWeir(usize, &'static str),
    Stall(usize),
    Disconnect(usize),
    /// Moves a client to a server.
    Move(usize, usize),
}

#[derive(Debug, Clone, Copy)]
enum Break {
    Cut,
    CutAfter(Direction, usize),
    HalfOpen(Side),
    Both(Mode),
    OneWay(Direction, Mode),
}

#[derive(Debug, Clone, Copy)]
enum Failing {
    Code(&'static str, i32),
    Close(&'static str),
    Block,
}

impl Fault {
    fn random(random: &mut fastrand::Rng, clients: usize) -> Self {
        let server = random.usize(..SERVERS);
        match random.u32(..20) {
            0..6 => Self::Network(None, Break::random(random)),
            6..11 => Self::Network(Some(server), Break::random(random)),
            11..13 => Self::Command(Failing::random(random)),
            13 => Self::KillCursors,
            14 => Self::KillMongodb,
            15 => Self::EndWeir(server, "KILL"),
            16 => Self::EndWeir(server, "TERM"),
            17 => Self::Stall(random.usize(..clients)),
            18 => Self::Disconnect(random.usize(..clients)),
            _ => Self::Move(random.usize(..clients), server),
        }
    }
}

impl Break {
    fn random(random: &mut fastrand::Rng) -> Self {
        let direction = [Direction::Up, Direction::Down][random.usize(..2)];
        let slow = Duration::from_millis(random.u64(1..40));
        match random.u32(..8) {
            0 => Self::Cut,
            1 => Self::CutAfter(direction, random.usize(..200_000)),
            2 => Self::HalfOpen([Side::Client, Side::Server][random.usize(..2)]),
            3 => Self::Both(Mode::Refuse),
            4 => Self::Both(Mode::Blackhole),
            5 => Self::OneWay(direction, Mode::Blackhole),
            6 => Self::Both(Mode::Jitter(slow)),
            _ => {
                let bytes = random.usize(1..2000);
                let pause = Duration::from_millis(1);
                Self::OneWay(direction, Mode::Trickle { bytes, pause })
            }
        }
    }
}

impl Failing {
    fn random(random: &mut fastrand::Rng) -> Self {
        let command = ["getMore", "aggregate", "ping", "find", "hello"][random.usize(..5)];
        match random.u32(..4) {
            0 => Self::Close(command),
            1 => Self::Block,
            // A shutdown, a step-down, a time limit, a lost cursor.
            _ => Self::Code(command, [91, 189, 262, 43][random.usize(..4)]),
        }
    }

    fn command(self) -> FailCommand {
        let failing = match self {
            Self::Code(command, code) => FailCommand::on(&[command]).code(code).times(3),
            Self::Close(command) => FailCommand::on(&[command]).close_connection().times(3),
            Self::Block => FailCommand::on(&["getMore"]).block(SHORT).times(3),
        };
        failing.app_name("weir")
    }
}

fn network(replicas: &Replicas, server: Option<usize>) -> &Proxy {
    server.map_or(&replicas.upstream_proxy, |it| {
        &replicas.servers[it].client_proxy
    })
}

async fn begin(replicas: &mut Replicas, fault: Fault) {
    match fault {
        Fault::Network(server, broken) => {
            let network = network(replicas, server);
            match broken {
                Break::Cut => network.cut(),
                Break::CutAfter(direction, bytes) => network.cut_after(direction, bytes),
                Break::HalfOpen(side) => network.half_open(side),
                Break::Both(mode) => network.set(mode),
                Break::OneWay(direction, mode) => network.set_one_way(direction, mode),
            }
        }
        Fault::Command(failing) => replicas.database.fail(failing.command()).await,
        Fault::KillCursors => drop(replicas.database.kill_cursors(&[]).await),
        Fault::KillMongodb => replicas.database.restart().await,
        Fault::EndWeir(server, signal) => replicas.end(server, signal).await,
        Fault::Stall(client) => replicas.clients[client].stall(true),
        Fault::Disconnect(client) => replicas.clients[client].disconnect(),
        Fault::Move(client, server) => {
            let address = replicas.servers[server].client_proxy.address();
            replicas.clients[client].move_to(address);
        }
    }
}

async fn end(replicas: &mut Replicas, fault: Fault) {
    match fault {
        Fault::Network(server, _) => network(replicas, server).set(Mode::Pass),
        Fault::Command(_) => replicas.database.clear_failures().await,
        Fault::EndWeir(server, _) => replicas.start_again(server).await,
        Fault::Stall(client) => replicas.clients[client].stall(false),
        Fault::KillCursors | Fault::KillMongodb | Fault::Disconnect(_) | Fault::Move(..) => {}
    }
}

fn number_of(variable: &str) -> Option<u64> {
    let number = std::env::var(variable).ok()?;
    Some(
        number
            .parse()
            .unwrap_or_else(|_| panic!("{variable} is no number: {number}")),
    )
}

#[tokio::test]
async fn any_faults_in_any_order_lose_nothing() {
    let seed = number_of("WEIR_FAULT_SEED").unwrap_or_else(|| fastrand::u64(..));
    let rounds = number_of("WEIR_FAULT_ROUNDS").unwrap_or(ROUNDS.into());
    println!("again with WEIR_FAULT_SEED={seed} WEIR_FAULT_ROUNDS={rounds}");
    let mut random = fastrand::Rng::with_seed(seed);
    let write_options = WriteOptions {
        seed,
        ..write_options()
    };
    let mut replicas = Replicas::start(SERVERS, &write_options).await;
    let mut faults = 0;
    for round in 0..rounds {
        wait_for_writes(&replicas.ledger, 10).await;
        let clients = replicas.clients.len();
        let several = random.usize(1..=3);
        let these: Vec<Fault> = (0..several)
            .map(|_| Fault::random(&mut random, clients))
            .collect();
        let long = random.u32(..5) == 0;
        let most = if long { LONGEST } else { SHORT };
        let lasting = most.mul_f64(random.f64());
        println!("round {round}, for {lasting:?}: {these:?}");
        for fault in &these {
            begin(&mut replicas, *fault).await;
        }
        tokio::time::sleep(lasting).await;
        for fault in &these {
            end(&mut replicas, *fault).await;
        }
        faults += these.len() as u64;
        let problem = replicas.clients.iter().find_map(|it| it.problem());
        assert_eq!(problem, None);
    }
    for proxy in 0..=SERVERS {
        // A cut that was set for a certain byte and was not reached is done now.
        network(&replicas, proxy.checked_sub(1)).cut();
    }
    replicas.check_delivery(faults).await;
}
