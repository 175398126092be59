//! The shard that the examples compute, in three languages, and the one that the server delivers to.

#[allow(dead_code, reason = "its main is for people")]
#[path = "../../../examples/shard.rs"]
mod rust_example;

use super::{COLLECTION, owner, watch_all};
use crate::support::{ChildProcess, Database, Weir, node, python, repository};
use mongodb::bson::oid::ObjectId;
use mongodb::bson::{Bson, doc};
use serde::Deserialize;
use std::time::Duration;
use twox_hash::XxHash3_64;
use weir::filter::{canonical_bytes, id_hash};
use weir::raw::Elements;

const CLIENT_LIMIT: Duration = Duration::from_secs(90);
const COUNT: u16 = 5;

/// An entry of `examples/shard-vectors.json`.
struct Vector {
    /// Extended JSON, as text, since the order of fields counts.
    id: String,
    hashed: Hashed,
}

#[derive(Deserialize)]
struct Hashed {
    /// In hexadecimal, as the hash.
    canonical: String,
    hash: String,
    shard_of_5: u16,
}

impl Vector {
    fn id(&self) -> Bson {
        serde_json::from_str(&self.id).expect("Extended JSON")
    }

    /// What the examples print.
    fn line(&self) -> String {
        let Hashed {
            canonical,
            hash,
            shard_of_5,
        } = &self.hashed;
        format!("{shard_of_5} {hash} {canonical}")
    }
}

fn vectors() -> Vec<Vector> {
    let file = repository().join("examples/shard-vectors.json");
    let text = std::fs::read_to_string(file).expect("the vectors are there");
    // Each entry has two lines, the first of which is the _id.
    let lines: Vec<&str> = text.lines().collect();
    let vectors: Vec<Vector> = lines[1..lines.len() - 1]
        .chunks(2)
        .map(|lines| {
            let id = lines[0].strip_prefix(r#"  {"id": "#);
            let id = id.and_then(|it| it.strip_suffix(',')).expect("an _id");
            let hashed = format!("{{{}", lines[1].trim_end_matches(','));
            Vector {
                id: id.to_owned(),
                hashed: serde_json::from_str(&hashed).expect("JSON"),
            }
        })
        .collect();
    assert!(vectors.len() > 70, "only {} vectors", vectors.len());
    vectors
}

/// The line of the server's own functions.
fn by_server(id: &Bson) -> String {
    let document = doc! {"_id": id}.to_vec().expect("BSON");
    let element = Elements::new(&document).ok().and_then(|mut it| it.next());
    let element = element.expect("a field").expect("BSON");
    let form: String = canonical_bytes(&element)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let hash = id_hash(&document).expect("an _id");
    format!("{} {hash:016x} {form}", owner(id, COUNT))
}

fn by_rust(ids: &[String]) -> Vec<String> {
    let describe = |id: &String| rust_example::describe(id, COUNT.into());
    let lines = ids.iter().map(describe);
    lines.map(|line| line.expect("a line")).collect()
}

async fn by_program(name: &str, program: &str, ids: &[String]) -> Vec<String> {
    let packages = repository().join("tests/interop/node/node_modules");
    let interpreter = if name == "Node" { node() } else { python() };
    let mut line = vec![
        format!("NODE_PATH={}", packages.display()),
        interpreter.display().to_string(),
        repository().join(program).display().to_string(),
        COUNT.to_string(),
    ];
    line.extend(ids.iter().cloned());
    let mut process = ChildProcess::start(name, "env", line);
    let status = process.wait_for_exit(CLIENT_LIMIT).await;
    assert!(status.success(), "{process}");
    process.stdout().lines().map(str::to_owned).collect()
}

/// The answers of the examples in Rust, Python and Node.
async fn by_all_examples(ids: &[String]) -> [(&'static str, Vec<String>); 3] {
    [
        ("Rust", by_rust(ids)),
        (
            "Python",
            by_program("Python", "examples/shard.py", ids).await,
        ),
        ("Node", by_program("Node", "examples/shard.js", ids).await),
    ]
}

#[test]
fn the_server_computes_the_test_vectors() {
    for vector in vectors() {
        assert_eq!(by_server(&vector.id()), vector.line(), "{}", vector.id);
    }
}

#[tokio::test]
async fn the_examples_compute_the_test_vectors() {
    let vectors = vectors();
    let ids: Vec<String> = vectors.iter().map(|it| it.id.clone()).collect();
    let expected: Vec<String> = vectors.iter().map(Vector::line).collect();
    for (language, lines) in by_all_examples(&ids).await {
        assert_eq!(lines, expected, "{language}");
    }
}

/// Numbers above all, as their canonical form takes the most work.
#[tokio::test]
async fn the_examples_compute_what_the_server_does_for_random_ids() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut rng = fastrand::Rng::with_seed(seed);
    let decimal = |rng: &mut fastrand::Rng| {
        let digits = rng.u64(..) >> rng.u32(0..64);
        let exponent = [rng.i32(-30..30), rng.i32(-6176..6100)][usize::from(rng.bool())];
        let sign = if rng.bool() { "-" } else { "" };
        format!(r#"{{"$numberDecimal": "{sign}{digits}E{exponent}"}}"#)
    };
    let ids: Vec<String> = (0..600)
        .map(|_| match rng.u8(..8) {
            0 => format!(r#"{{"$numberLong": "{}"}}"#, rng.i64(..)),
            1 => format!(
                r#"{{"$numberDouble": "{:e}"}}"#,
                f64::from_bits(rng.u64(..) & !(1 << 62))
            ),
            2 => format!(
                r#"{{"$numberDouble": "{}"}}"#,
                f64::from(rng.i32(..)) / 16.0
            ),
            // As another type has it, exactly.
            3 => format!(
                r#"{{"$numberDecimal": "{}"}}"#,
                f64::from(rng.i32(..)) / 16.0
            ),
            4 => format!(
                r#"{{"key": {}, "list": [{}, "x"]}}"#,
                decimal(&mut rng),
                decimal(&mut rng)
            ),
            5 => format!(r#""{}""#, "é".repeat(rng.usize(..200))),
            _ => decimal(&mut rng),
        })
        .collect();
    let expected: Vec<String> = ids
        .iter()
        .map(|id| by_server(&serde_json::from_str(id).expect("Extended JSON")))
        .collect();
    for (language, lines) in by_all_examples(&ids).await {
        for ((id, line), expected) in ids.iter().zip(&lines).zip(&expected) {
            assert_eq!(line, expected, "{language}: {id}");
        }
        assert_eq!(lines.len(), expected.len());
    }
}

#[tokio::test]
async fn the_server_delivers_to_the_shard_that_the_test_vectors_name() {
    let database = Database::start().await;
    let server = Weir::start(&database).await;
    let mut watches = watch_all(&server, &database, COUNT).await;
    let orders = database.collection(COLLECTION);
    let mut delivered = 0;
    for vector in vectors() {
        // Equal ones follow each other, so that the document has to go before the next one comes.
        let id = vector.id();
        let inserted = orders.insert_one(doc! {"_id": id.clone()}).await;
        if inserted.is_err() {
            println!("the database does not take the _id {}", vector.id);
            continue;
        }
        orders.delete_many(doc! {}).await.expect("a deletion");
        let watch = &mut watches[usize::from(vector.hashed.shard_of_5)];
        let insert = watch.next_change().await;
        assert_eq!(insert.operation(), weir::pb::OperationType::Insert);
        assert_eq!(by_server(&super::id_of(&insert)), vector.line());
        let deletion = watch.next_change().await;
        assert_eq!(deletion.operation(), weir::pb::OperationType::Delete);
        delivered += 1;
    }
    assert!(delivered > 60, "only {delivered} were delivered");
}

fn page() -> String {
    let page = repository().join("docs/shards.md");
    std::fs::read_to_string(page).expect("the page is there")
}

#[test]
fn the_documentation_shows_the_test_vectors() {
    let page = page();
    let vectors = vectors();
    let rows: Vec<&str> = page
        .lines()
        .filter(|line| line.starts_with("| `") && !line.starts_with("| `_id`"))
        .collect();
    assert!(rows.len() > 10, "{rows:?}");
    for row in rows {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        let cell = |index: usize| cells[index].trim_matches('`');
        let vector = vectors.iter().find(|it| it.id == cell(0));
        let vector = vector.unwrap_or_else(|| panic!("no vector for {row}"));
        let expected = format!("{} {} {}", cell(3), cell(2), cell(1));
        assert_eq!(expected, vector.line(), "{row}");
    }
}

/// The only block of the page in this language.
fn block(language: &str) -> String {
    let page = page();
    let (_, rest) = page
        .split_once(&format!("```{language}\n"))
        .expect("a block");
    rest.split_once("```").expect("its end").0.to_owned()
}

/// As docs/shards.md shows it.
fn shard(id: Bson, count: u64) -> u64 {
    let id = match id {
        Bson::Int32(id) => Bson::Int64(id.into()),
        id => id,
    };
    let raw = doc! {"": id}.to_vec().expect("BSON");
    XxHash3_64::oneshot(&[&raw[4..5], &raw[6..raw.len() - 1]].concat()) % count
}

#[tokio::test]
async fn the_lines_in_the_documentation_compute_the_common_ids() {
    let id = ObjectId::parse_str("64b7f1c2a9d3e45f60718293").expect("an ObjectId");
    let ids: [Bson; 3] = [id.into(), "order-17".into(), 17.into()];
    let expected = ids.clone().map(|id| owner(&id, COUNT).to_string());
    assert_eq!(ids.map(|id| shard(id, COUNT.into()).to_string()), expected);
    let own = include_str!("examples.rs");
    assert!(own.contains(&block("rust")), "this file has other lines");

    let packages = repository().join("tests/interop/node/node_modules");
    for (language, interpreter, flag) in [("python", python(), "-c"), ("js", node(), "-e")] {
        let line = [
            format!("NODE_PATH={}", packages.display()),
            interpreter.display().to_string(),
            flag.to_owned(),
            block(language),
        ];
        let mut process = ChildProcess::start(language, "env", line);
        let status = process.wait_for_exit(CLIENT_LIMIT).await;
        assert!(status.success(), "{process}");
        assert_eq!(process.stdout().trim(), expected.join(" "), "{process}");
    }
}
