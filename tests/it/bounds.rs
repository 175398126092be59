//! Every request field at its bounds and beyond: a valid value opens a watch, and an invalid one is
//! refused with its path and a short message that says what is allowed.

mod table;

use crate::conversions::{eq, field};
use crate::support::{
    Database, Figure, WatchStream, Weir, error_info, error_reason, tally, within,
};
use bytes::{BufMut as _, Bytes, BytesMut};
use http_body_util::{BodyExt as _, Full};
use mongodb::bson::doc;
use prost::Message as _;
use prost::encoding::{WireType, encode_key, encode_varint};
use serde_json::json;
use table::{Bad, Table};
use tonic::transport::Channel;
use tonic::{Code, Status, body::Body};
use tonic_types::StatusExt as _;
use tower::ServiceExt as _;
use weir::pb::{self, field_filter::Operator, filter::Kind};

/// The trailer size that gRPC clients accept, in bytes.
const TRAILERS: usize = 8 << 10;

/// The size of a status on the wire, counted as HTTP counts headers.
fn wire_bytes(status: &Status) -> usize {
    let response = status.clone().into_http::<Body>();
    let headers = response.headers().iter();
    headers
        .map(|(name, value)| name.as_str().len() + value.len() + 32)
        .sum()
}

/// The bad fields of a status, each with its description.
fn violations(status: &Status) -> Vec<(String, String)> {
    let bad = status.get_details_bad_request();
    let bad = bad.unwrap_or_else(|| panic!("the status carries no BadRequest: {status:?}"));
    let violations = bad.field_violations.into_iter();
    violations.map(|it| (it.field, it.description)).collect()
}

/// Checks that this is a refusal as invalid input that fits into trailers.
fn assert_refused(status: &Status) {
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    assert_eq!(error_reason(status), "INVALID_REQUEST");
    let bytes = wire_bytes(status);
    assert!(bytes <= TRAILERS, "{bytes} bytes: {status:?}");
}

#[tokio::test]
async fn every_value_at_its_bound_is_accepted() {
    let database = Database::options().start().await;
    let weir = Weir::with(&database, |config| config.allow_pipeline = true).await;
    let mut client = weir.client().await;
    let table = Table::of(database.name());
    assert!(table.good.len() > 100, "{} requests", table.good.len());
    for good in table.good {
        match WatchStream::open(&mut client, good.request).await {
            Ok(_) => {}
            // The oldest time is a valid value, but not in the oplog.
            Err(status)
                if good.what == "the first second" || good.what == "an end equal to the start" =>
            {
                assert_eq!(error_reason(&status), "RESUME_TOKEN_EXPIRED", "{status:?}");
            }
            Err(status) => panic!("{} was refused: {status:?}", good.what),
        }
    }
}

#[tokio::test]
async fn a_value_beyond_its_bound_is_refused_with_the_fields_path() {
    let database = Database::options().start().await;
    let weir = Weir::with(&database, |config| config.allow_pipeline = true).await;
    let mut client = weir.client().await;
    let table = Table::of(database.name());
    assert!(table.bad.len() > 400, "{} requests", table.bad.len());
    tally(Figure::BadInputs, table.bad.len() as u64);
    for Bad {
        request,
        field,
        words,
    } in table.bad
    {
        let answer = WatchStream::open(&mut client, request.clone()).await;
        let Err(status) = answer else {
            panic!(
                "{field}, {words:?}: this was not refused: {:.300}",
                format!("{request:?}")
            );
        };
        assert_refused(&status);
        let violations = violations(&status);
        let [(path, description)] = &violations[..] else {
            panic!("{field} alone is bad, not {violations:?}");
        };
        assert_eq!(*path, field, "{description}");
        assert!(
            description.contains(&words),
            "{field}: {description:?} says nothing of {words:?}"
        );
        assert!(
            description.len() <= 600,
            "{field}: {} bytes",
            description.len()
        );
        assert!(
            status.message().contains(&field[..field.len().min(100)]),
            "{status:?}"
        );
    }
    // None of them has reached MongoDB or has left anything behind.
    let metrics = weir.metrics().await;
    for gauge in ["weir_watches", "weir_feeds"] {
        assert_eq!(metrics.sum(gauge), 0.0, "{gauge}");
    }
}

fn shorter(text: &str, bytes: usize) -> &str {
    &text[..text.floor_char_boundary(bytes)]
}

/// However much is wrong, and however long the quoted names are.
#[tokio::test]
async fn a_request_with_every_field_wrong_gets_a_short_answer() {
    let database = Database::options().start().await;
    let weir = Weir::with(&database, |config| config.allow_pipeline = true).await;
    let mut client = weir.client().await;
    let valid = database.watch_request(&["orders"]);
    let deep = |inner: pb::Filter| {
        (0..9).fold(inner, |inner, _| {
            let mut filters = vec![eq("a", json!(1)); 20];
            filters.push(inner);
            pb::Filter {
                kind: Some(Kind::NoneOf(pb::FilterGroup { filters })),
            }
        })
    };
    // Characters that grow when they are escaped.
    let ugly = "\u{202e}\u{0}\u{fffd}\u{10ffff}".repeat(1000);
    let wrong_patterns = (0..100).map(|_| {
        field(
            "a",
            Operator::Regex(pb::RegexFilter {
                pattern: format!("({}", shorter(&ugly, 1000)),
                options: shorter(&ugly, 400).to_owned(),
            }),
        )
    });
    let wrong_values: Vec<pb::Filter> = (0..100)
        .map(|_| {
            eq(
                "a",
                json!({ (shorter(&ugly, 100)): { (shorter(&ugly, 90)): {"$x": 1} } }),
            )
        })
        .collect();
    let stages = |kind: pb::pipeline_stage::Kind| pb::WatchRequest {
        pipeline: vec![pb::PipelineStage { kind: Some(kind) }; 20],
        ..valid.clone()
    };
    let wide = shorter(&ugly, 400);
    let deep_name = (0..5).fold(
        doc! { "$where": 1 },
        |inner, _| doc! { wide.replace('\0', "x"): inner },
    );
    let deep_name = doc! { "$match": deep_name }.to_vec().expect("BSON");
    let requests = [
        stages(pb::pipeline_stage::Kind::Json(format!(
            "{{{:?}: 1}}",
            wide.replace('\0', "x")
        ))),
        stages(pb::pipeline_stage::Kind::Json(
            json!({ wide: 1 }).to_string(),
        )),
        stages(pb::pipeline_stage::Kind::Bson(deep_name.into())),
        pb::WatchRequest {
            operations: vec![i32::MIN; 10_000],
            ..valid.clone()
        },
        pb::WatchRequest {
            collections: vec!["system.\u{10ffff}".repeat(20); 400],
            ..valid.clone()
        },
        pb::WatchRequest {
            filters: vec![eq(&format!("${ugly}"), json!(1)); 50],
            ..valid.clone()
        },
        pb::WatchRequest {
            filters: vec![eq(&format!("${}", shorter(&ugly, 400)), json!(1)); 50],
            ..valid.clone()
        },
        pb::WatchRequest {
            filters: wrong_patterns.collect(),
            ..valid.clone()
        },
        pb::WatchRequest {
            filters: wrong_values.clone(),
            ..valid.clone()
        },
        pb::WatchRequest {
            filters: wrong_values.into_iter().map(deep).collect(),
            ..valid.clone()
        },
        pb::WatchRequest {
            filters: vec![pb::Filter::default(); 10_000],
            ..valid.clone()
        },
    ];
    for request in &requests {
        let answer = WatchStream::open(&mut client, request.clone()).await;
        let status = answer.err().expect("it is refused");
        assert_refused(&status);
        let violations = violations(&status);
        println!(
            "{} violations, {} bytes",
            violations.len(),
            wire_bytes(&status)
        );
        assert!((1..=16).contains(&violations.len()), "{violations:?}");
    }
    tally(Figure::BadInputs, requests.len() as u64);
}

/// A length-delimited field with these bytes.
fn length_delimited(number: u32, inner: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    encode_key(number, WireType::LengthDelimited, &mut out);
    encode_varint(inner.len() as u64, &mut out);
    out.extend(inner);
    out
}

/// The answer to a call with this body: the HTTP status, and the gRPC status of the headers or
/// trailers.
async fn answer(
    channel: &Channel,
    head: http::request::Builder,
    body: Bytes,
) -> (u16, Option<Status>) {
    let request = head.body(Body::new(Full::new(body))).expect("a request");
    let response = within("an answer", channel.clone().oneshot(request)).await;
    let response = response.expect("the connection holds");
    let http = response.status().as_u16();
    if let Some(status) = Status::from_header_map(response.headers()) {
        return (http, Some(status));
    }
    let mut body = response.into_body();
    // A watch that was opened does not end.
    let first = within("a frame", body.frame()).await;
    let trailers = first.and_then(|it| it.ok()?.into_trailers().ok());
    (http, trailers.and_then(|it| Status::from_header_map(&it)))
}

fn post(path: &str) -> http::request::Builder {
    http::Request::post(format!("http://weir{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
}

const WATCH: &str = "/weir.v1.WatchService/Watch";
const INFO: &str = "/weir.v1.WatchService/GetServerInfo";

fn framed(flag: u8, bytes: &[u8]) -> Bytes {
    let mut out = BytesMut::new();
    out.put_u8(flag);
    out.put_u32(u32::try_from(bytes.len()).expect("it is short"));
    out.put_slice(bytes);
    out.freeze()
}

/// protobuf would skip it: ignoring an operator or value of a later version would silently widen
/// the watch.
#[tokio::test]
async fn a_field_of_a_later_version_is_refused_at_every_depth() {
    let database = Database::options().start().await;
    let weir = Weir::start(&database).await;
    let channel = weir.channel().await;
    let scope = database.watch_request(&["orders"]).encode_to_vec();
    // Field 99 as a varint, as 64 and 32 bits, as bytes, as a group.
    let later: [&[u8]; 5] = [
        &[0x98, 0x06, 1],
        &[0x99, 0x06, 1, 2, 3, 4, 5, 6, 7, 8],
        &[0x9d, 0x06, 1, 2, 3, 4],
        &[0x9a, 0x06, 2, 1, 2],
        &[0x9b, 0x06, 0x9c, 0x06],
    ];
    let in_filter = |inner: &[u8]| length_delimited(4, inner);
    let path = length_delimited(1, b"status");
    let in_field = |inner: &[u8]| in_filter(&length_delimited(1, &[&path[..], inner].concat()));
    type Wrap<'a> = Box<dyn Fn(&[u8]) -> Vec<u8> + 'a>;
    let paths: Vec<(&str, Wrap<'_>)> = vec![
        ("WatchRequest", Box::new(<[u8]>::to_vec)),
        ("filters[0]", Box::new(in_filter)),
        ("filters[0].field", Box::new(in_field)),
        (
            "filters[0].any_of",
            Box::new(move |inner| in_filter(&length_delimited(3, inner))),
        ),
        (
            "filters[0].none_of.filters[1]",
            Box::new(move |inner| {
                in_filter(&length_delimited(
                    4,
                    &[length_delimited(1, b""), length_delimited(1, inner)].concat(),
                ))
            }),
        ),
        (
            "filters[0].field.regex",
            Box::new(|inner| in_field(&length_delimited(12, inner))),
        ),
        (
            "filters[0].field.eq",
            Box::new(|inner| in_field(&length_delimited(2, inner))),
        ),
        (
            "filters[0].field.in.values[0]",
            Box::new(|inner| in_field(&length_delimited(8, &length_delimited(1, inner)))),
        ),
        ("start_time", Box::new(|inner| length_delimited(6, inner))),
        ("end_time", Box::new(|inner| length_delimited(8, inner))),
        (
            "progress_interval",
            Box::new(|inner| length_delimited(14, inner)),
        ),
    ];
    for (path, wrap) in &paths {
        for later in later {
            let bytes = [&scope[..], &wrap(later)].concat();
            let (_, status) = answer(&channel, post(WATCH), framed(0, &bytes)).await;
            let status = status.unwrap_or_else(|| panic!("{path}: a watch was opened"));
            assert_eq!(status.code(), Code::Unimplemented, "{path}: {status:?}");
            let info = error_info(&status);
            assert_eq!(info.reason, "NOT_IMPLEMENTED");
            assert_eq!(info.metadata["field"], "99");
            assert_eq!(info.metadata["message"], *path);
        }
    }
    tally(Figure::BadInputs, (paths.len() * later.len()) as u64);
}

/// Of two starts, or two operators of one condition, protobuf parsers take the later one.
#[tokio::test]
async fn a_oneof_that_is_set_twice_is_refused() {
    let database = Database::options().start().await;
    let weir = Weir::start(&database).await;
    let channel = weir.channel().await;
    let scope = database.watch_request(&["orders"]).encode_to_vec();
    let value = length_delimited(3, b"x");
    let two_operators = [
        length_delimited(1, b"a"),
        length_delimited(2, &value),
        length_delimited(4, &value),
    ]
    .concat();
    let cases = [
        (
            vec![length_delimited(5, b"token"), length_delimited(6, b"")],
            "WatchRequest",
            "resume_token and start_time",
        ),
        (
            vec![length_delimited(
                4,
                &[length_delimited(1, b""), length_delimited(3, b"")].concat(),
            )],
            "filters[0]",
            "field and any_of",
        ),
        (
            vec![length_delimited(4, &length_delimited(1, &two_operators))],
            "filters[0].field",
            "eq and gt",
        ),
    ];
    for (more, field, words) in &cases {
        let bytes = [&scope[..], &more.concat()].concat();
        let (_, status) = answer(&channel, post(WATCH), framed(0, &bytes)).await;
        let status = status.expect("no watch is opened");
        assert_refused(&status);
        let violations = violations(&status);
        assert_eq!(violations[0].0, *field);
        assert!(violations[0].1.contains(words), "{violations:?}");
    }
    tally(Figure::BadInputs, cases.len() as u64);
}

/// Bytes that are no request: wrong wire types, wrong lengths, groups, unlimited nesting.
#[tokio::test]
async fn bytes_that_are_no_request_are_refused_with_a_reason() {
    let database = Database::options().start().await;
    let weir = Weir::start(&database).await;
    let channel = weir.channel().await;
    let scope = database.watch_request(&["orders"]).encode_to_vec();
    let groups = |depth| {
        (0..depth).fold(eq("a", json!(1)).encode_to_vec(), |inner, _| {
            length_delimited(2, &length_delimited(1, &inner))
        })
    };
    let lists = |depth| {
        (0..depth).fold(Vec::new(), |inner, _| {
            length_delimited(6, &length_delimited(1, &inner))
        })
    };
    let structs = |depth| {
        (0..depth).fold(Vec::new(), |inner, _| {
            length_delimited(
                5,
                &length_delimited(
                    1,
                    &[length_delimited(1, b"k"), length_delimited(2, &inner)].concat(),
                ),
            )
        })
    };
    let in_eq = |value: &[u8]| {
        length_delimited(
            4,
            &length_delimited(
                1,
                &[length_delimited(1, b"a"), length_delimited(2, value)].concat(),
            ),
        )
    };
    let mut inputs: Vec<Vec<u8>> = vec![
        // A field number of 0, or of more than 29 bits; a varint of 11 bytes.
        vec![0],
        vec![0xf8, 0xff, 0xff, 0xff, 0x7f, 1],
        vec![
            0x18, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1,
        ],
        // Broken UTF-8 in a name, in a path, in a value.
        length_delimited(1, &[0xff]),
        length_delimited(4, &length_delimited(1, &length_delimited(1, &[0xc3, 0x28]))),
        in_eq(&length_delimited(3, &[0xff])),
        // Lengths beyond the end, and beyond all memory.
        vec![0x0a, 5, b'a'],
        vec![
            0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f, 1,
        ],
        length_delimited(4, &[0x0a, 100, 0x0a]),
        // Groups: opened, closed, opened a thousand times, of a known field.
        vec![0x0b],
        vec![0x0c],
        [0x23].repeat(1000),
        [[0x23].repeat(10_000), [0x24].repeat(10_000)].concat(),
        // Filters and values nested deeper than any parser accepts.
        length_delimited(4, &groups(60)),
        length_delimited(4, &groups(10_000)),
        in_eq(&lists(60)),
        in_eq(&lists(10_000)),
        in_eq(&structs(40)),
        in_eq(&structs(5_000)),
        // Large: a MiB of zeros, of ones, of empty filters.
        vec![0; 1 << 20],
        vec![0xff; 1 << 20],
        length_delimited(4, b"").repeat(500_000),
    ];
    // A wrong wire type for every field of the request.
    for number in (1..=19).filter(|it| ![7, 11].contains(it)) {
        let mut bytes = Vec::new();
        let right = matches!(number, 3 | 9 | 10 | 12 | 13 | 15..=19);
        if right {
            encode_key(number, WireType::SixtyFourBit, &mut bytes);
            bytes.extend([0; 8]);
        } else {
            encode_key(number, WireType::Varint, &mut bytes);
            bytes.push(1);
        }
        inputs.push(bytes);
    }
    // A whole request, cut everywhere except between its fields.
    let filter = eq("status", json!({"a": [1, "x", null]})).encode_to_vec();
    let whole = length_delimited(4, &filter);
    inputs.extend((1..whole.len()).map(|at| whole[..at].to_vec()));
    for input in &inputs {
        let bytes = [&scope[..], input].concat();
        let (_, status) = answer(&channel, post(WATCH), framed(0, &bytes)).await;
        let shown = &input[..input.len().min(20)];
        let status = status.unwrap_or_else(|| panic!("{shown:?}: a watch was opened"));
        // Unknown fields are reported first where both apply.
        if status.code() == Code::Unimplemented {
            assert_eq!(
                error_reason(&status),
                "NOT_IMPLEMENTED",
                "{shown:?}: {status:?}"
            );
        } else {
            assert_refused(&status);
            // Half a million empty filters are counted, and not decoded.
            assert_eq!(violations(&status).len(), 1, "{shown:?}: {status:?}");
        }
        assert!(wire_bytes(&status) <= TRAILERS, "{shown:?}");
    }
    tally(Figure::BadInputs, inputs.len() as u64);
    WatchStream::open(
        &mut weir.client().await,
        database.watch_request(&["orders"]),
    )
    .await
    .expect("a valid request is accepted");
}

/// gRPC's own rules. tonic reports most violations as internal errors without a reason.
#[tokio::test]
async fn calls_that_violate_grpcs_rules_are_refused_with_a_reason() {
    let database = Database::options().start().await;
    let weir = Weir::start(&database).await;
    let channel = weir.channel().await;
    let good = database.watch_request(&["orders"]).encode_to_vec();
    let one = framed(0, &good);
    let two = Bytes::from([&one[..], &one[..]].concat());
    let bodies = [
        ("nothing", Bytes::new()),
        ("half a head", one.slice(..3)),
        ("half a message", one.slice(..one.len() - 1)),
        ("two messages", two),
        ("only a compression flag", framed(1, &good)),
        ("an unknown flag", framed(7, &good)),
        (
            "over a MiB",
            framed(0, &length_delimited(1, &vec![b'x'; 1 << 20])),
        ),
        ("over 4 MiB", framed(0, &vec![b'x'; 5 << 20])),
        (
            "a length of 4 GiB",
            Bytes::from_static(&[0, 0xff, 0xff, 0xff, 0xff, 1]),
        ),
        ("text", Bytes::from_static(br#"{"database": "shop"}"#)),
    ];
    let mut tried = 0;
    for path in [WATCH, INFO] {
        for (what, body) in &bodies {
            let body = if path == INFO && *what == "two messages" {
                Bytes::from([&framed(0, b"")[..], &framed(0, b"")[..]].concat())
            } else {
                body.clone()
            };
            let (http, status) = answer(&channel, post(path), body).await;
            let status = status.unwrap_or_else(|| panic!("{path}, {what}: it was answered"));
            assert_eq!(http, 200);
            // A Watch request is not valid for the method of server information.
            if path == INFO && error_reason(&status) == "NOT_IMPLEMENTED" {
                continue;
            }
            assert_eq!(
                status.code(),
                Code::InvalidArgument,
                "{path}, {what}: {status:?}"
            );
            assert_refused(&status);
            tried += 1;
        }
        for encoding in ["gzip", "zstd", "br", "nonsense"] {
            let head = post(path).header("grpc-encoding", encoding);
            let (_, status) = answer(&channel, head, framed(1, &good)).await;
            let status = status.expect("it is refused");
            assert_eq!(status.code(), Code::Unimplemented, "{encoding}: {status:?}");
            assert_eq!(error_reason(&status), "NOT_IMPLEMENTED");
            tried += 1;
        }
        for content_type in ["application/json", "text/html", "", "application/x-grpc"] {
            let head = http::Request::post(format!("http://weir{path}"))
                .header("content-type", content_type);
            let (http, _) = answer(&channel, head, one.clone()).await;
            assert_eq!(http, 415, "{content_type}");
            tried += 1;
        }
    }
    for path in [
        "/",
        "/weir.v1.WatchService/Wotch",
        "/weir.v2.WatchService/Watch",
        "//",
        "/weir.v1.WatchService/",
        &format!("/{}", "x".repeat(8_000)),
    ] {
        let (_, status) = answer(&channel, post(path), one.clone()).await;
        let status = status.unwrap_or_else(|| panic!("{path:.40} has no method"));
        assert_eq!(status.code(), Code::Unimplemented, "{path:.40}: {status:?}");
        assert_eq!(error_reason(&status), "NOT_IMPLEMENTED");
        assert!(wire_bytes(&status) <= TRAILERS);
        tried += 1;
    }
    for timeout in ["", "S", "-1S", "1", "99999999999S", "1s", "ü"] {
        let head = post(WATCH).header("grpc-timeout", timeout);
        let (_, status) = answer(&channel, head, one.clone()).await;
        let status = status.unwrap_or_else(|| panic!("{timeout:?}: it was served"));
        assert_eq!(
            status.code(),
            Code::InvalidArgument,
            "{timeout}: {status:?}"
        );
        assert_refused(&status);
        assert!(wire_bytes(&status) <= TRAILERS);
        tried += 1;
    }
    let head = post(WATCH).header("grpc-timeout", "99999999H");
    let (_, status) = answer(&channel, head, one.clone()).await;
    assert!(status.is_none(), "{status:?}");
    tally(Figure::BadInputs, tried);
}

/// The status names the collections that are gone: a hundred of them would be 15 KB.
#[tokio::test]
async fn the_end_of_a_watch_of_many_names_fits_into_trailers() {
    let database = Database::options().start().await;
    let weir = Weir::start(&database).await;
    let names: Vec<String> = (0..100)
        .map(|number| format!("{number:03}{}", "c".repeat(150)))
        .collect();
    let request = pb::WatchRequest {
        collections: names.clone(),
        ..database.watch_request(&[])
    };
    let mut watch = weir.watch(request).await;
    let one = database.collection(&names[0]);
    one.insert_one(doc! { "_id": 1 }).await.expect("an insert");
    database.database().drop().await.expect("a drop");
    let status = watch.end().await;
    assert_eq!(status.code(), Code::Aborted, "{status:?}");
    assert_eq!(error_reason(&status), "WATCH_INVALIDATED");
    let bytes = wire_bytes(&status);
    assert!(bytes <= TRAILERS, "{bytes} bytes");
}

/// The costliest request that is allowed opens in both modes and serves.
#[tokio::test]
async fn the_largest_request_that_is_allowed_opens_a_watch_in_every_mode() {
    let database = Database::options().start().await;
    let weir = Weir::start(&database).await;
    // 200 conditions on paths of 100 parts, 10 levels deep, with 200 KiB of values.
    let path = ["a"; 100].join(".");
    let condition = |number: usize| match number % 4 {
        0 => eq(&format!("{path}{number}"), json!("x".repeat(1000))),
        1 => field(
            &path,
            Operator::Regex(pb::RegexFilter {
                pattern: "(a+)+$|".repeat(140) + "x",
                options: "imsx".into(),
            }),
        ),
        2 => field(
            &path,
            Operator::NotIn(prost_types::ListValue {
                values: vec![crate::conversions::value(json!(number)); 100],
            }),
        ),
        _ => field(&path, Operator::Prefix("[.".repeat(512))),
    };
    let all = (0..200).map(condition).collect();
    let filters = (0..9).fold(all, |filters: Vec<pb::Filter>, level| {
        let group = pb::FilterGroup { filters };
        let kind = if level % 2 == 0 {
            Kind::AnyOf(group)
        } else {
            Kind::NoneOf(group)
        };
        vec![pb::Filter { kind: Some(kind) }]
    });
    let collections: Vec<String> = (0..100)
        .map(|number| format!("{number:03}{}", "c".repeat(150)))
        .collect();
    for mode in [pb::FeedMode::Dedicated, pb::FeedMode::Shared] {
        for before in [
            pb::FullDocumentBeforeChange::Off,
            pb::FullDocumentBeforeChange::WhenAvailable,
        ] {
            let request = pb::WatchRequest {
                collections: collections.clone(),
                filters: filters.clone(),
                full_document: pb::FullDocument::UpdateLookup.into(),
                full_document_before_change: before.into(),
                feed_mode: mode.into(),
                operations: vec![1, 2, 3, 4, 5],
                ..database.watch_request(&[])
            };
            let mut watch = weir.watch(request).await;
            // Nine levels of nesting: whether the inner conditions hold is for other tests. A drop
            // always passes.
            let there = database.collection(&collections[7]);
            there.insert_one(doc! {"_id": 1}).await.expect("an insert");
            there.drop().await.expect("a drop");
            loop {
                let change = watch.next_change().await;
                if change.operation() == pb::OperationType::Drop {
                    break;
                }
            }
        }
    }
}
