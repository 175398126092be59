//! The plans that a fingerprint distinguishes, and those that it does not.

use crate::pb;
use crate::pipeline::fixtures::*;

#[test]
fn plans_with_different_streams_have_different_fingerprints() {
    let expanded = pb::WatchRequest {
        show_expanded_events: true,
        ..request()
    };
    let requests = [
        request(),
        expanded,
        pb::WatchRequest {
            collections: Vec::new(),
            ..request()
        },
        pb::WatchRequest {
            full_document: pb::FullDocument::UpdateLookup as i32,
            ..request()
        },
        pb::WatchRequest {
            operations: vec![pb::OperationType::Insert as i32],
            ..request()
        },
        filtered(vec![eq("a", 1)]),
        filtered(vec![eq("a", "1")]),
        filtered(vec![eq("b", 1)]),
    ];
    for (i, left) in requests.iter().enumerate() {
        for (j, right) in requests.iter().enumerate() {
            let equal = plan(left.clone()).fingerprint() == plan(right.clone()).fingerprint();
            assert_eq!(equal, i == j, "{i} and {j}");
        }
    }
}

#[test]
fn the_fingerprint_does_not_depend_on_the_selection_from_the_stream() {
    let selecting = |operations: &[pb::OperationType]| {
        plan(pb::WatchRequest {
            operations: operations.iter().map(|number| *number as i32).collect(),
            ..request()
        })
    };
    let inserts = selecting(&[pb::OperationType::Insert]);
    let inserts_and_drops = selecting(&[pb::OperationType::Drop, pb::OperationType::Insert]);
    assert_eq!(inserts.fingerprint(), inserts_and_drops.fingerprint());
    assert_ne!(inserts, inserts_and_drops);

    let json = pb::WatchRequest {
        document_format: pb::DocumentFormat::Json as i32,
        ..request()
    };
    assert_eq!(plan(json), plan(request()));
}

#[test]
fn the_fingerprint_is_the_same_in_every_version() {
    let request = pb::WatchRequest {
        collections: vec!["orders".into(), "items".into()],
        operations: vec![pb::OperationType::Update as i32],
        full_document: pb::FullDocument::UpdateLookup as i32,
        filters: vec![eq("_id", 5), eq("status", "paid")],
        ..request()
    };
    let hex: String = plan(request)
        .fingerprint()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    assert_eq!(hex, "2376eeeae1a335e79391cc6ff288c5df");
}
