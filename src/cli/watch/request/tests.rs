use std::time::Duration;

use clap::Parser as _;

use super::*;

#[derive(clap::Parser)]
struct Line {
    #[command(flatten)]
    watch: WatchArgs,
}

fn built(line: &[&str]) -> pb::WatchRequest {
    build(&parse(line).unwrap()).unwrap()
}

fn parse(line: &[&str]) -> Result<WatchArgs, clap::Error> {
    let line = std::iter::once(&"watch").chain(line);
    Line::try_parse_from(line).map(|line| line.watch)
}

#[test]
fn a_bare_scope_asks_for_the_defaults_and_json_documents() {
    let request = built(&["shop.orders"]);
    let expected = pb::WatchRequest {
        database: "shop".to_owned(),
        collections: vec!["orders".to_owned()],
        full_document: pb::FullDocument::Default.into(),
        full_document_before_change: pb::FullDocumentBeforeChange::Off.into(),
        document_format: pb::DocumentFormat::Json.into(),
        oversize_policy: pb::OversizePolicy::Chunk.into(),
        missing_image_policy: pb::MissingImagePolicy::Deliver.into(),
        invalidate_policy: pb::InvalidatePolicy::End.into(),
        feed_mode: pb::FeedMode::Auto.into(),
        ..pb::WatchRequest::default()
    };
    assert_eq!(request, expected);
}

#[test]
fn every_flag_sets_its_field() {
    let request = built(&[
        "shop.a",
        "--collection=b,c",
        "--op=INSERT,dropdatabase",
        "--op",
        "createIndexes",
        "--where=status=paid",
        "--where=total>100",
        "--stage={\"$match\": {\"b\": 1, \"a\": 2}}",
        "--stage",
        "{\"$unset\": \"x\"}",
        "--fields=status,address.city",
        "--fields",
        "total",
        "--full-document=lookup",
        "--before=required",
        "--expanded",
        "--resume-token=0a0b",
        "--until=2025-01-31T12:00:00Z",
        "--missing-image=drop",
        "--on-invalidate=continue",
        "--oversize=omit",
        "--max-message-bytes=65536",
        "--progress-interval=1s 500ms",
        "--shard=2/5",
    ]);
    assert_eq!(request.collections, ["a", "b,c"]);
    assert_eq!(request.operations, [1, 7, 9]);
    assert_eq!(request.filters.len(), 2);
    let stages = ["{\"$match\": {\"b\": 1, \"a\": 2}}", "{\"$unset\": \"x\"}"];
    let stages = stages.map(|text| pb::PipelineStage {
        kind: Some(pb::pipeline_stage::Kind::Json(text.to_owned())),
    });
    assert_eq!(request.pipeline, stages);
    assert_eq!(request.fields, ["status", "address.city", "total"]);
    assert_eq!(request.full_document(), pb::FullDocument::UpdateLookup);
    assert_eq!(
        request.full_document_before_change(),
        pb::FullDocumentBeforeChange::Required
    );
    assert!(request.show_expanded_events);
    assert_eq!(
        request.start,
        Some(Start::ResumeToken(vec![0x0a, 0x0b].into()))
    );
    assert_eq!(request.end_time.unwrap().seconds, 1_738_324_800);
    assert_eq!(request.missing_image_policy(), pb::MissingImagePolicy::Drop);
    assert_eq!(request.invalidate_policy(), pb::InvalidatePolicy::Continue);
    assert_eq!(request.oversize_policy(), pb::OversizePolicy::Omit);
    assert_eq!(request.max_message_bytes, 65_536);
    assert_eq!(
        request.shard,
        Some(pb::ConsumerShard { index: 2, count: 5 })
    );
    let interval = request.progress_interval.unwrap();
    assert_eq!((interval.seconds, interval.nanos), (1, 500_000_000));
}

#[test]
fn a_start_may_be_a_time_or_an_age() {
    let start = |since: &str| match built(&["shop", "--since", since]).start {
        Some(Start::StartTime(time)) => time.seconds,
        other => panic!("{other:?}"),
    };
    assert_eq!(start("2025-01-31T12:00:00.5Z"), 1_738_324_800);
    assert_eq!(start("2025-01-31 12:00:00"), 1_738_324_800);
    assert_eq!(start("2025-01-31T13:00:00+01:00"), 1_738_324_800);
    let ten_minutes_ago = SystemTime::now() - Duration::from_secs(600);
    let expected = timestamp(ten_minutes_ago).unwrap().seconds;
    for text in ["10m", "-10m", "10m ago", "600s"] {
        assert!(
            (expected - 5..=expected + 5).contains(&start(text)),
            "{text}"
        );
    }
}

#[test]
fn the_largest_message_may_have_a_unit() {
    for (text, bytes) in [
        ("65536", 65_536),
        ("64KiB", 65_536),
        ("4MiB", 4_194_304),
        ("4 MB", 4_000_000),
        ("64MiB", 67_108_864),
    ] {
        let request = built(&["shop", "--max-message-bytes", text]);
        assert_eq!(request.max_message_bytes, bytes, "{text}");
    }
}

#[test]
fn the_whole_deployment_is_an_empty_database() {
    let request = built(&["--all"]);
    assert_eq!(request.database, "");
    assert!(request.collections.is_empty());
}

#[test]
fn invalid_command_lines_are_refused() {
    for line in [
        &[][..],
        &["shop", "--all"],
        &["--all", "--collection=a"],
        &["shop", "--op=insrt"],
        &["shop", "--where=a b"],
        &["shop", "--since=yesterday"],
        &["shop", "--since=1h", "--resume-token=aa"],
        &["shop", "--max-message-bytes=1000"],
        &["shop", "--max-message-bytes=65MiB"],
        &["shop", "--max-message-bytes=5GiB"],
        &["shop", "--max-message-bytes=-1"],
        &["shop", "--max-message-bytes=many"],
        &["shop", "--limit=0"],
        &[
            "shop",
            "--server=https://weir:443",
            "--tls-cert-file=client.pem",
        ],
        &["shop", "--server=ftp://weir"],
    ] {
        assert!(parse(line).is_err(), "{line:?}");
    }
    let error = parse(&["shop", "--op=insrt"]).unwrap_err().to_string();
    assert!(error.contains("similar value exists: 'insert'"), "{error}");
    for line in [
        &["shop", "--op=create"][..],
        &[
            "shop",
            "--since=2025-01-31T12:00:00Z",
            "--until=2025-01-31T11:00:00Z",
        ],
        &["shop", "--since=2107-01-01T00:00:00Z"],
    ] {
        assert!(build(&parse(line).unwrap()).is_err(), "{line:?}");
    }
}

#[test]
fn a_server_may_be_written_without_its_scheme() {
    let args = parse(&["shop", "--server=weir.example:9000"]).unwrap();
    assert_eq!(args.server.0, "http://weir.example:9000");
}
