//! What other principals feel while one floods the server: for each flood a server and a database of its own, first
//! without the flood and then with it.

use std::{
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use weir::auth::ApiKey;

use crate::{
    client::{
        bystander::{Bystanders, Figures},
        flood::{Flood, Flooded, Flooder, Task},
    },
    gateway::weir::{self as weir_gateway, Build},
    options::Options,
    report::{
        Bound, Results,
        spread::{Spread, number},
        table::Table,
    },
    system::{memory, pause, process::ChildError},
    upstream::source::{Content, Kind, Source},
};

/// The duration of the warm-up, which does not count.
const WARM_UP: Duration = Duration::from_millis(700);
/// The time from the begin of a flood until figures count.
const RISE: Duration = Duration::from_millis(300);
/// The time that bystanders have to get all that was written, once a flood is over.
const CATCH_UP_LIMIT: Duration = Duration::from_secs(30);
/// The number of documents in the collection with a past, and their size.
const HISTORY: u64 = 4_000;
const HISTORY_BYTES: usize = 1_024;
/// The names of the two principals.
const PRINCIPALS: [&str; 2] = ["flood", "bystander"];
/// The largest allowed p99 while a flood lasts, per that without, and in ms.
const MOST_TIMES: f64 = 3.0;
const MOST_MILLIS: f64 = 250.0;
/// The default of `--memory-limit`, in MiB.
const MEMORY_LIMIT: f64 = 1_024.0;

/// One round of one flood.
#[derive(Debug, Clone, Copy)]
struct Round {
    before: Figures,
    during: Figures,
    flooded: Flooded,
    /// The peak of Weir's resident memory, in MiB.
    memory: f64,
    /// The cores that Weir, and the database, used during the flood.
    weir_cores: f64,
    database_cores: f64,
    seconds: f64,
}

/// Measures all floods in turn, in rounds.
pub fn measure(options: &Options, results: &mut Results) {
    let floods = Flood::ALL.into_iter();
    let floods = floods.filter(|it| options.floods.is_empty() || options.floods.contains(it));
    let mut rounds: Vec<(Flood, Vec<Round>)> = floods.map(|it| (it, Vec::new())).collect();
    for _ in 0..options.neighbour_rounds {
        for (flood, of_flood) in &mut rounds {
            match run(*flood, options) {
                Ok(round) => {
                    tell(*flood, &round);
                    of_flood.push(round);
                }
                Err(error) => eprintln!("{}: {error}", flood.name()),
            }
        }
    }
    let mut table = Table::new([
        "flood",
        "flood's calls/s",
        "refused, %",
        "p50, ms, without and with",
        "p99, ms, without and with",
        "ratio of p99",
        "longest, ms",
        "p99 of writes alone, ms",
        "openings failed",
        "p99 of openings, ms",
        "memory, MiB",
        "Weir's CPU, cores",
        "database's",
        "within the goals",
    ]);
    for (flood, rounds) in &rounds {
        table.add(row(*flood, rounds));
        if *flood != Flood::Cpu {
            goals(*flood, rounds, results);
        }
    }
    let title = format!(
        "From a database: {} writes/s, 4 watches of another principal, {} s without and {} s with the flood, {} rounds",
        options.neighbour_rate,
        options.neighbour_seconds,
        options.neighbour_seconds,
        options.neighbour_rounds,
    );
    results.table("floods", &title, &table);
}

fn tell(flood: Flood, round: &Round) {
    let millis = |micros: u64| micros as f64 / 1e3;
    eprintln!(
        "{}: p99 {:.1} ms without, {:.1} ms with it, {:.0} ms at the longest; {:.0} calls/s, {} of {} openings failed, \
         {:.0} MiB, {:.2} cores, the database {:.2}",
        flood.name(),
        millis(round.before.p99),
        millis(round.during.p99),
        millis(round.during.longest),
        round.flooded.calls as f64 / round.seconds,
        round.during.failed_openings,
        round.during.openings,
        round.memory,
        round.weir_cores,
        round.database_cores,
    );
}

fn ratio(round: &Round) -> f64 {
    round.during.p99 as f64 / round.before.p99.max(1) as f64
}

fn row(flood: Flood, rounds: &[Round]) -> [String; 14] {
    let of = |value: &dyn Fn(&Round) -> f64| Spread::of(rounds.iter().map(value));
    let median = |value: &dyn Fn(&Round) -> f64, digits| number(of(value).median, digits);
    let millis = |micros: u64| micros as f64 / 1e3;
    let both = |value: fn(&Figures) -> u64, digits| {
        let before = median(&|it| millis(value(&it.before)), digits);
        format!(
            "{before}, {}",
            median(&|it| millis(value(&it.during)), digits)
        )
    };
    let failed: u64 = rounds.iter().map(|it| it.during.failed_openings).sum();
    let openings: u64 = rounds.iter().map(|it| it.during.openings).sum();
    let refused = |it: &Round| 100.0 * it.flooded.refused as f64 / it.flooded.calls.max(1) as f64;
    [
        flood.name().to_owned(),
        median(&|it| it.flooded.calls as f64 / it.seconds, 0),
        median(&refused, 0),
        both(|it| it.p50, 2),
        both(|it| it.p99, 2),
        of(&ratio).text(2),
        of(&|it| millis(it.during.longest)).text(0),
        both(|it| it.write_p99, 2),
        format!("{failed} of {openings}"),
        both(|it| it.opening_p99, 0),
        of(&|it| it.memory).text(0),
        median(&|it| it.weir_cores, 2),
        median(&|it| it.database_cores, 2),
        if within_goals(rounds) { "yes" } else { "no" }.to_owned(),
    ]
}

fn within_goals(rounds: &[Round]) -> bool {
    let median = |value: fn(&Round) -> f64| Spread::of(rounds.iter().map(value)).median;
    median(ratio) <= MOST_TIMES
        && median(|it| it.during.p99 as f64 / 1e3) <= MOST_MILLIS
        && rounds.iter().all(|it| it.memory <= MEMORY_LIMIT)
        && rounds.iter().all(|it| it.during.failed_openings == 0)
}

fn goals(flood: Flood, rounds: &[Round], results: &mut Results) {
    if rounds.is_empty() {
        return;
    }
    let name = flood.name();
    let spread = |value: fn(&Round) -> f64| Spread::of(rounds.iter().map(value));
    let times = spread(ratio);
    results.goal(
        &format!("{name}: p99 of other principals' deliveries, per that without"),
        Bound::AtMost(MOST_TIMES, ""),
        times.median,
        times.text(2),
    );
    let millis = spread(|it| it.during.p99 as f64 / 1e3);
    results.goal(
        &format!("{name}: p99 of other principals' deliveries"),
        Bound::AtMost(MOST_MILLIS, " ms"),
        millis.median,
        millis.text(1),
    );
    let memory = spread(|it| it.memory);
    results.goal(
        &format!("{name}: Weir's resident memory at the peak"),
        Bound::AtMost(MEMORY_LIMIT, " MiB"),
        memory.most,
        memory.text(0),
    );
}

fn run(flood: Flood, options: &Options) -> Result<Round, ChildError> {
    let limit = Duration::from_secs(options.limit);
    let content = Content {
        groups: 1,
        bytes: HISTORY_BYTES,
        wide: false,
    };
    let mut source = Source::start(Kind::Database, content);
    let since = next_second();
    if flood == Flood::CatchUps {
        for _ in 0..HISTORY / 1_000 {
            source.burst(1_000, limit)?;
        }
    }
    let credentials = CredentialFiles::create();
    let mut flags = options.weir_flags.clone();
    flags.extend(credentials.flags());
    let weir = weir_gateway::start(source.uri(), &Build::own(flags));
    let collection = "neighbours";
    let [flood_key, bystander_key] = &credentials.keys;
    let mut bystanders = Bystanders::start(
        source.uri(),
        weir.url(),
        (source.database(), collection),
        bystander_key,
        options.neighbour_rate,
    )?;
    let task = Task::new(
        flood,
        weir.url(),
        (source.database(), collection, source.collection()),
        since,
        flood_key,
    );
    let mut flooder = Flooder::start(&task);
    let seconds = Duration::from_secs_f64(options.neighbour_seconds);
    pause(WARM_UP);
    bystanders.begin_phase()?;
    pause(seconds);
    let before = bystanders.figures()?;
    flooder.begin()?;
    pause(RISE);
    bystanders.begin_phase()?;
    let usage = (weir.usage(), source.usage());
    pause(seconds);
    let during = bystanders.figures()?;
    let cores = |now: Option<crate::system::cpu::Usage>, before: &Option<_>| match (now, before) {
        (Some(now), Some(before)) => now.since(before).total.as_secs_f64() / seconds.as_secs_f64(),
        _ => 0.0,
    };
    let weir_cores = cores(weir.usage(), &usage.0);
    let database_cores = cores(source.usage(), &usage.1);
    let flooded = flooder.end()?;
    bystanders.check(CATCH_UP_LIMIT)?;
    Ok(Round {
        before,
        during,
        flooded,
        memory: memory::peak(weir.process_id()).unwrap_or(0) as f64 / f64::from(1 << 20),
        weir_cores,
        database_cores,
        seconds: (seconds + RISE).as_secs_f64(),
    })
}

/// Waits for the next second and returns it: the history of the database begins before it, as that is refused which
/// asks for more.
fn next_second() -> i64 {
    let second = || {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        now.map_or(0, |now| now.as_secs()).cast_signed()
    };
    let begin = second();
    while second() == begin {
        pause(Duration::from_millis(10));
    }
    second()
}

/// The keys of the two principals, and the public keys of an issuer that has issued no token.
#[derive(Debug)]
struct CredentialFiles {
    folder: tempfile::TempDir,
    keys: [String; 2],
}

impl CredentialFiles {
    fn create() -> Self {
        let folder = tempfile::tempdir().expect("there is room for temporary files");
        let mut entries = String::from("keys:\n");
        let keys = PRINCIPALS.map(|name| {
            let key = ApiKey::random().expect("the system has randomness");
            entries += &format!("- {{name: {name}, sha256: {}}}\n", key.sha256());
            key.secret().to_owned()
        });
        let files = Self { folder, keys };
        put(&files.path("keys.yaml"), &entries);
        put(&files.path("jwks.json"), &key_set());
        files
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn flags(&self) -> Vec<String> {
        vec![
            format!("--api-keys-file={}", self.path("keys.yaml").display()),
            format!("--jwks-file={}", self.path("jwks.json").display()),
            "--jwt-issuer=https://issuer.example/".to_owned(),
            "--jwt-audience=weir".to_owned(),
            "--jwt-algorithms=RS256,ES384".to_owned(),
        ]
    }
}

fn put(path: &Path, text: &str) {
    std::fs::write(path, text).expect("there is room for a small file");
}

/// Two keys whose signatures are costly to check. Nobody signs with them, so that of RSA needs no factors.
fn key_set() -> String {
    use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
    let mut modulus: Vec<u8> = (0..256).map(|_| fastrand::u8(..)).collect();
    modulus[0] |= 0x80;
    modulus[255] |= 1;
    let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384);
    let pair = pair.expect("a key can be made");
    let (x, y) = pair.public_key_raw()[1..].split_at(48);
    let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    serde_json::json!({ "keys": [
        { "kty": "RSA", "kid": "rsa", "alg": "RS256", "use": "sig", "n": encode(&modulus), "e": "AQAB" },
        { "kty": "EC", "crv": "P-384", "kid": "curve", "alg": "ES384", "use": "sig", "x": encode(x), "y": encode(y) },
    ]})
    .to_string()
}
