//! Malformed tokens of every kind. Each is refused with its reason, without a second attempt at
//! MongoDB, and never replaced by a watch from now.

use std::time::Duration;

use crate::support::orders::{ORDERS, insert, resume};
use crate::support::{Database, Figure, WatchStream, Weir, error_reason, tally};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use mongodb::bson::{Bson, Document, doc};
use tonic::transport::Channel;
use tonic::{Code, Status};
use weir::config::ServeConfig;
use weir::pb;
use weir::pb::watch_service_client::WatchServiceClient;

/// The layout of a token's envelope, as in `src/wire/token.rs`.
const VERSION: usize = 0;
const KIND: usize = 1;
const DEPLOYMENT: usize = 2;
const SCOPE: usize = 6;
const PLAN: usize = 14;
const SECONDS: usize = 22;
const TOKEN: usize = 30;
const CHECKSUM: usize = 4;

/// The versions of a token with an audience, and of an encrypted token.
const WITH_AUDIENCE: u8 = 2;
const ENCRYPTED: u8 = 3;

const EVENT: u8 = 0;
const HIGH_WATER: u8 = 1;
const INVALIDATE: u8 = 2;
const TIME: u8 = 3;
const ANCHORED: u8 = 4;

struct TokenTester {
    database: Database,
    weir: Weir,
    client: WatchServiceClient<Channel>,
    /// A valid token, of a change.
    good: Bytes,
}

impl TokenTester {
    async fn start() -> Self {
        Self::with(|_| {}).await
    }

    async fn with(configure: impl FnOnce(&mut ServeConfig)) -> Self {
        let database = Database::options().start().await;
        // Feeds close at once, so each readable token goes to MongoDB.
        let weir = Weir::with(&database, |config| {
            config.feed_linger = Duration::ZERO;
            configure(config);
        })
        .await;
        let mut watch = weir.watch(database.watch_request(&[ORDERS])).await;
        insert(&database, 1).await;
        let good = watch.next_change().await.resume_token;
        insert(&database, 2).await;
        drop(watch);
        weir.wait_for_no_feeds().await;
        let client = weir.client().await;
        Self {
            database,
            weir,
            client,
            good,
        }
    }

    async fn open(&mut self, token: Vec<u8>) -> Result<WatchStream, Status> {
        let request = resume(&self.database, token.into());
        WatchStream::open(&mut self.client, request).await
    }

    /// The reason with which a token is refused.
    async fn refused(&mut self, token: Vec<u8>, what: &str) -> String {
        match self.open(token).await {
            Ok(watch) => panic!("{what}: a watch was opened: {:?}", watch.opened),
            Err(status) => reason(&status, what),
        }
    }

    /// The number of commands that MongoDB got, failed ones included.
    async fn commands(&self) -> i64 {
        let status = self.database.admin(doc! { "serverStatus": 1 }).await;
        let counters = status.get_document("opcounters").expect("counters");
        let count = counters.get("command").expect("commands are counted");
        count
            .as_i64()
            .or_else(|| count.as_i32().map(i64::from))
            .expect("a number")
    }

    /// The envelope with a changed body and a matching checksum.
    fn forged(&self, change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
        let mut body = self.good[..self.good.len() - CHECKSUM].to_vec();
        change(&mut body);
        let checksum = crc32fast::hash(&body);
        body.extend(checksum.to_be_bytes());
        body
    }

    /// The envelope with another token of MongoDB's.
    fn with_inner_token(&self, kind: u8, inner: &[u8]) -> Vec<u8> {
        self.forged(|body| {
            body[KIND] = kind;
            body.truncate(TOKEN);
            if kind == ANCHORED {
                body.extend([7; 24]);
            }
            body.extend(inner);
        })
    }
}

/// The reason of a refusal, which is one of three.
fn reason(status: &Status, what: &str) -> String {
    let reason = error_reason(status);
    let code = match reason.as_str() {
        "RESUME_TOKEN_MALFORMED" | "RESUME_TOKEN_MISMATCH" => Code::InvalidArgument,
        "RESUME_TOKEN_EXPIRED" => Code::OutOfRange,
        _ => panic!("{what}: {status:?}"),
    };
    assert_eq!(status.code(), code, "{what}: {status:?}");
    reason
}

#[tokio::test]
async fn every_truncation_and_every_flipped_bit_of_a_token_is_detected() {
    assert_every_change_is_refused(TokenTester::start().await).await;
}

/// No altered encrypted token is ever accepted, whoever made it.
#[tokio::test]
async fn every_truncation_and_every_flipped_bit_of_an_encrypted_token_is_detected() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("keys");
    let key = |byte: u8| STANDARD.encode([byte; 32]);
    std::fs::write(&file, format!("# two\n{}\n{}\n", key(7), key(8))).expect("a file");
    let tester = TokenTester::with(|config| config.auth.token_key_file = Some(file)).await;
    assert_eq!(tester.good[VERSION], ENCRYPTED);
    assert_every_change_is_refused(tester).await;
}

async fn assert_every_change_is_refused(mut tester: TokenTester) {
    let good = tester.good.to_vec();
    let before = tester.commands().await;
    let mut tried = 0_u32;
    for length in 0..good.len() {
        let what = format!("cut to {length} bytes");
        let reason = tester.refused(good[..length].to_vec(), &what).await;
        assert_eq!(reason, "RESUME_TOKEN_MALFORMED", "{what}");
        tried += 1;
    }
    for bit in 0..good.len() * 8 {
        let mut flipped = good.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        let what = format!("bit {bit} flipped");
        assert_eq!(
            tester.refused(flipped, &what).await,
            "RESUME_TOKEN_MALFORMED",
            "{what}"
        );
        tried += 1;
    }
    for length in [16 << 10, (16 << 10) + 1, 1 << 19] {
        for byte in [0, 1, 0xff] {
            let what = format!("{length} bytes of {byte}");
            let reason = tester.refused(vec![byte; length], &what).await;
            assert_eq!(reason, "RESUME_TOKEN_MALFORMED", "{what}");
            tried += 1;
        }
    }
    tally(Figure::BadInputs, tried.into());
    let commands = tester.commands().await - before;
    println!("{tried} tokens, {commands} commands");
    assert!(
        commands < i64::from(tried) / 10,
        "MongoDB got {commands} commands for {tried} tokens"
    );
    tester.open(good).await.expect("the token itself is good");
}

/// A checksum does not protect against forgery.
#[tokio::test]
async fn a_forged_envelope_is_refused_or_read_literally() {
    let mut tester = TokenTester::start().await;
    let current = tester.good[VERSION];
    for version in (0..=255).filter(|version| *version != current) {
        let token = tester.forged(|body| body[VERSION] = version);
        let what = format!("version {version}");
        // A token with an audience is refused, as this watch is not in it.
        let expected = if version == WITH_AUDIENCE {
            "RESUME_TOKEN_MISMATCH"
        } else {
            "RESUME_TOKEN_MALFORMED"
        };
        assert_eq!(tester.refused(token, &what).await, expected, "{what}");
    }
    // As MongoDB's token is an event's, the position right after it is resumed from the event's own
    // token.
    for kind in 0..=255 {
        let token = tester.forged(|body| body[KIND] = kind);
        let what = format!("kind {kind}");
        match tester.open(token).await {
            Ok(mut watch) if kind <= INVALIDATE => {
                assert_eq!(
                    crate::support::orders::id(&watch.next_change().await),
                    2,
                    "{what}"
                );
            }
            Ok(watch) => panic!("{what}: {:?}", watch.opened),
            Err(status) => {
                assert_eq!(reason(&status, &what), "RESUME_TOKEN_MALFORMED", "{what}");
            }
        }
    }
    for (part, at) in [("deployment", DEPLOYMENT), ("scope", SCOPE)] {
        for byte in [at, at + 3] {
            let token = tester.forged(|body| body[byte] ^= 0x10);
            assert_eq!(
                tester.refused(token, part).await,
                "RESUME_TOKEN_MISMATCH",
                "{part}"
            );
        }
    }
    // Another plan's token, and times that do not belong to the event: MongoDB's token decides.
    let forgeries: Vec<(&str, Vec<u8>)> = vec![
        ("another plan", tester.forged(|body| body[PLAN] ^= 0x10)),
        (
            "the time 0",
            tester.forged(|body| body[SECONDS..TOKEN].fill(0)),
        ),
        (
            "the last time",
            tester.forged(|body| body[SECONDS..TOKEN].fill(0xff)),
        ),
    ];
    for (what, token) in forgeries {
        match tester.open(token).await {
            Ok(mut watch) => {
                assert_eq!(
                    crate::support::orders::id(&watch.next_change().await),
                    2,
                    "{what}"
                );
            }
            Err(status) => {
                reason(&status, what);
            }
        }
    }
    // A position by time alone, at the start of time.
    let token = tester.forged(|body| {
        body[KIND] = TIME;
        body[SECONDS..].fill(0);
        body.truncate(TOKEN);
    });
    assert_eq!(
        tester.refused(token, "the time 0 alone").await,
        "RESUME_TOKEN_EXPIRED"
    );
    tally(Figure::BadInputs, 255 + 253 + 4 + 3 + 1);
}

/// Nested documents, as deep as a token's length allows at 8 bytes each.
fn deeply_nested() -> Vec<u8> {
    let levels = 15 * 128;
    let mut bytes = Vec::new();
    for level in 0..levels {
        let length = i32::try_from(8 * (levels - level) - 3).expect("it is short");
        bytes.extend(length.to_le_bytes());
        if level + 1 < levels {
            bytes.extend([3, b'a', 0]);
        }
    }
    bytes.extend(vec![0; levels]);
    bytes
}

/// These reach MongoDB, which decides: one attempt each.
#[tokio::test]
async fn a_token_with_a_broken_inner_token_is_refused_after_one_attempt() {
    let mut tester = TokenTester::start().await;
    let bson = |document: Document| document.to_vec().expect("it is BSON");
    let end = tester.good.len() - CHECKSUM;
    let real = Document::from_reader(&tester.good[TOKEN..end]).expect("MongoDB's token is BSON");
    let data = real.get_str("_data").expect("it holds text").to_owned();
    let deep = (0..150).fold(Bson::Int32(1), |inner, _| doc! { "a": inner }.into());
    let whole = bson(real.clone());
    let lying = |length: i32| [&length.to_le_bytes()[..], &whole[4..]].concat();
    let insides: Vec<(&str, Vec<u8>)> = vec![
        ("nothing", Vec::new()),
        ("one byte", vec![0]),
        (
            "noise",
            (0..64_u8)
                .map(|it| it.wrapping_mul(37).wrapping_add(11))
                .collect(),
        ),
        ("zeros", vec![0; 64]),
        ("an empty document", bson(doc! {})),
        ("another field", bson(doc! { "data": &data })),
        ("no text", bson(doc! { "_data": 5 })),
        ("null", bson(doc! { "_data": Bson::Null })),
        ("a document", bson(doc! { "_data": { "_data": &data } })),
        ("empty text", bson(doc! { "_data": "" })),
        (
            "text that is not hexadecimal",
            bson(doc! { "_data": "no token" }),
        ),
        (
            "half a byte",
            bson(doc! { "_data": &data[..data.len() - 1] }),
        ),
        ("a few bytes", bson(doc! { "_data": &data[..10] })),
        ("text twice as long", bson(doc! { "_data": data.repeat(2) })),
        (
            "15 KiB of text",
            bson(doc! { "_data": "8".repeat(15 << 10) }),
        ),
        (
            "15 KiB of noise",
            bson(doc! { "_data": "z".repeat(15 << 10) }),
        ),
        ("depth", bson(doc! { "_data": deep })),
        ("depth without end", deeply_nested()),
        (
            "a name of NUL",
            vec![13, 0, 0, 0, 2, 0, 1, 0, 0, 0, 0, 0, 0],
        ),
        ("a length of nothing", lying(0)),
        ("a negative length", lying(-1)),
        ("a length beyond every bound", lying(i32::MAX)),
        ("a length too short", lying(7)),
        ("a cut", whole[..whole.len() - 3].to_vec()),
        ("more than a document", [&whole[..], &whole[..]].concat()),
        ("broken UTF-8", {
            let mut bytes = whole.clone();
            bytes[20] = 0xff;
            bytes
        }),
    ];
    let mut tried = 0_u32;
    let before = tester.commands().await;
    for (what, inside) in &insides {
        for kind in [EVENT, HIGH_WATER, INVALIDATE, ANCHORED] {
            let what = format!("{what} in kind {kind}");
            let token = tester.with_inner_token(kind, inside);
            let reason = tester.refused(token, &what).await;
            assert!(
                ["RESUME_TOKEN_MALFORMED", "RESUME_TOKEN_EXPIRED"].contains(&&*reason),
                "{what}: {reason}"
            );
            tried += 1;
        }
    }
    let commands = tester.commands().await - before;
    println!("{tried} tokens, {commands} commands");
    // An opening asks for MongoDB's time and a few more things, once.
    assert!(
        commands < i64::from(tried) * 6,
        "MongoDB got {commands} commands for {tried} tokens"
    );
    tally(Figure::BadInputs, tried.into());
    // The valid token with one digit changed, at every position: MongoDB accepts the position or
    // refuses it; nothing else happens.
    let mut taken = 0;
    for at in 0..data.len() {
        let mut digits = data.clone().into_bytes();
        digits[at] = if digits[at] == b'7' { b'8' } else { b'7' };
        let changed = String::from_utf8(digits).expect("digits are text");
        let token = tester.with_inner_token(EVENT, &bson(doc! { "_data": changed }));
        let what = format!("digit {at} changed");
        match tester.open(token).await {
            Ok(watch) => {
                assert_ne!(watch.opened.start_mode(), pb::StartMode::Now, "{what}");
                taken += 1;
            }
            // The tests' database reads names from its tokens, so that an altered one may name
            // something that nobody may read.
            Err(status) if error_reason(&status) == "UPSTREAM_ACCESS_DENIED" => {}
            Err(status) => {
                reason(&status, &what);
            }
        }
    }
    println!("{taken} of {} changed digits were taken", data.len());
    tally(Figure::BadInputs, data.len() as u64);
    // The server works as before.
    tester.weir.wait_for_no_feeds().await;
    let token = tester.good.to_vec();
    let mut watch = tester.open(token).await.expect("the token itself is good");
    assert_eq!(crate::support::orders::id(&watch.next_change().await), 2);
}
