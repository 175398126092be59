use std::collections::HashSet;

use super::*;

/// Every code that MongoDB documents, with what it becomes.
const TABLE: &str = include_str!("../../../../tests/it/mongodb_codes/error_codes.txt");

fn reply(code: i32) -> ErrorReply<'static> {
    ErrorReply {
        code,
        ..ErrorReply::default()
    }
}

fn with_message(code: i32, message: &str) -> ErrorReply<'_> {
    ErrorReply {
        code,
        message,
        ..ErrorReply::default()
    }
}

fn opening(reply: ErrorReply<'_>, has_token: bool, one_collection: bool) -> Failure {
    reclassify_opening(reply, classify(reply), has_token, one_collection)
}

fn name(failure: Failure) -> &'static str {
    match failure {
        Failure::Transient => "passing",
        Failure::Overloaded => "overloaded",
        Failure::HistoryLost => "history_lost",
        Failure::TokenNotFound => "token_not_found",
        Failure::TokenInvalid => "token_invalid",
        Failure::ImageMissing => "image_missing",
        Failure::EventTooLarge => "event_too_large",
        Failure::LookupAmbiguous => "lookup_ambiguous",
        Failure::ShardRemoved => "shard_removed",
        Failure::Unsupported => "unsupported",
        Failure::AccessDenied => "access_denied",
        Failure::LoginFailed => "login_failed",
        Failure::NotACollection => "not_a_collection",
        Failure::InvalidName => "invalid_name",
        Failure::PatternRefused => "pattern_refused",
        Failure::PipelineChangedToken => "pipeline_changed_token",
        Failure::StagesRefused => "stages_refused",
        Failure::Refused => "refused",
        Failure::Unexpected => "unexpected",
    }
}

#[test]
fn every_documented_code_becomes_what_the_table_says() {
    let mut seen = HashSet::new();
    for line in TABLE.lines().filter(|line| !line.starts_with('#')) {
        let fields: Vec<&str> = line.split(' ').collect();
        let [code, code_name, _, at_opening, at_get_more] = fields[..] else {
            panic!("{line}");
        };
        let code: i32 = code.parse().unwrap();
        assert!(seen.insert(code), "{line} comes twice");
        let reply = ErrorReply {
            code,
            name: code_name,
            ..ErrorReply::default()
        };
        assert_eq!(name(opening(reply, false, true)), at_opening, "{line}");
        assert_eq!(name(classify(reply)), at_get_more, "{line}");
        for has_token in [false, true] {
            for one_collection in [false, true] {
                let failure = opening(reply, has_token, one_collection);
                assert_ne!(failure, Failure::Unexpected, "{line}");
            }
        }
    }
    assert!(seen.len() > 400, "{}", seen.len());
    for code in PASSING
        .iter()
        .chain(&OVERLOADED)
        .chain(&UNSUPPORTED)
        .chain(&UNKNOWN_TO_THE_DEPLOYMENT)
    {
        // Of an unknown stage and of Azure Cosmos DB: neither has a name.
        assert!(
            seen.contains(code) || matches!(code, 40573 | 40324 | 16500),
            "{code}"
        );
    }
}

/// Every code of the drivers' specification, whatever its labels.
#[test]
fn codes_are_classified_as_the_specification_requires() {
    let transient = [
        43, 6, 7, 89, 91, 189, 262, 9001, 10107, 11600, 11602, 13435, 13436, 63, 150, 13388, 234,
        133,
    ];
    for code in transient {
        for resumable in [false, true] {
            let labelled = ErrorReply {
                resumable,
                ..reply(code)
            };
            assert_eq!(classify(labelled), Failure::Transient, "{code}");
        }
    }
}

#[test]
fn an_unknown_code_is_transient_only_with_a_resumable_label() {
    assert_eq!(classify(reply(4242)), Failure::Unexpected);
    let labelled = ErrorReply {
        resumable: true,
        ..reply(4242)
    };
    assert_eq!(classify(labelled), Failure::Transient);
    let overloaded = ErrorReply {
        overloaded: true,
        ..labelled
    };
    assert_eq!(classify(overloaded), Failure::Overloaded);
    // Of a code that passes anyway, it says why and for how long.
    let election = ErrorReply {
        code: 11602,
        ..overloaded
    };
    assert_eq!(classify(election), Failure::Overloaded);
    let contradicted = ErrorReply {
        not_resumable: true,
        ..overloaded
    };
    assert_eq!(classify(contradicted), Failure::Unexpected);
}

#[test]
fn a_resumable_label_does_not_override_a_lost_position() {
    for code in [280, 286, 136, 47, 10334, 464, 13, 40573] {
        let labelled = ErrorReply {
            resumable: true,
            ..reply(code)
        };
        assert!(!classify(labelled).is_passing(), "{code}");
    }
}

/// SERVER-55179: `_id` is unique only on each shard.
#[test]
fn an_ambiguous_look_up_is_no_lost_token() {
    let message = "Executor error during getMore :: caused by :: found more than one document";
    assert_eq!(
        classify(with_message(280, message)),
        Failure::LookupAmbiguous
    );
    let message = "cannot resume stream; the resume token was not found";
    assert_eq!(classify(with_message(280, message)), Failure::TokenNotFound);
}

#[test]
fn a_refused_pattern_is_told_from_other_bad_values() {
    let refused = [
        (
            51091,
            "Regular expression is invalid: quantifier does not follow a repeatable item",
        ),
        (51108, "invalid flag in regex options: q"),
        (
            2,
            "Regular expression is invalid: regular expression is too large",
        ),
        (2, "$regex has to be a string"),
    ];
    for (code, message) in refused {
        for has_token in [false, true] {
            let failure = opening(with_message(code, message), has_token, true);
            assert_eq!(failure, Failure::PatternRefused, "{code} {message}");
        }
    }
    let other = with_message(2, "Expected type string but found int");
    assert_eq!(opening(other, false, false), Failure::Unsupported);
    assert_eq!(opening(other, true, false), Failure::TokenInvalid);
}

/// 51771 of MongoDB 4.4 (`document_source_change_stream.cpp`): an assertion without a name that names an option.
#[test]
fn an_opening_that_fails_by_an_option_is_told_from_a_defect() {
    let message = "the 'fullDocumentBeforeChange' option is not supported in a sharded cluster";
    for has_token in [false, true] {
        let failure = opening(with_message(51771, message), has_token, true);
        assert_eq!(failure, Failure::Unsupported);
        let failure = opening(with_message(51771, "assertion"), has_token, true);
        assert_eq!(failure, Failure::Unexpected);
    }
}

/// A time-series collection has no change stream since 8.3 (SERVER-116464); other servers use the same code
/// for commands and stages that they lack.
#[test]
fn an_unsupported_command_is_told_from_a_time_series_collection() {
    for (message, one_collection, expected) in [
        (
            "cannot open a change stream on a timeseries collection",
            true,
            Failure::NotACollection,
        ),
        (
            "Namespace shop.prices is a time-series collection",
            false,
            Failure::NotACollection,
        ),
        ("not supported here", true, Failure::NotACollection),
        ("not supported here", false, Failure::Unsupported),
        (
            "Unknown command received: aggregate",
            true,
            Failure::Unsupported,
        ),
        ("$changeStream is not supported", true, Failure::Unsupported),
    ] {
        let failure = opening(with_message(115, message), false, one_collection);
        assert_eq!(failure, expected, "{message}");
    }
}

/// Amazon DocumentDB's "Feature not supported" has the number of another error of MongoDB.
#[test]
fn an_unsupported_feature_is_told_from_a_change_of_horizons() {
    let message = "Feature not supported: change streams on this version";
    assert_eq!(classify(with_message(303, message)), Failure::Unsupported);
    let horizon = ErrorReply {
        name: "SplitHorizonChange",
        ..reply(303)
    };
    assert_eq!(classify(horizon), Failure::Transient);
}

/// MongoDB quotes what a stage has left of the `_id`, and the key of a document: either may say anything.
#[test]
fn a_changed_token_is_told_from_an_ambiguous_look_up_by_what_mongodb_says_first() {
    const CHANGED: &str = "Executor error during getMore :: caused by :: Encountered an event whose _id \
        field, which contains the resume token, was modified by the pipeline. Modifying the _id field of an \
        event makes it impossible to resume the stream from that point. Only transformations that retain the \
        unmodified _id field are allowed. Expected: { _id: { _data: \"82\" } } but found: ";
    const SEVERAL: &str = "found more than one document with document key ";
    for (message, expected) in [
        (format!("{CHANGED}{{}}"), Failure::PipelineChangedToken),
        (
            format!("{CHANGED}{{ _id: \"{SEVERAL}\" }}"),
            Failure::PipelineChangedToken,
        ),
        (
            format!("{SEVERAL}{{ _id: \"{CHANGED}\" }}"),
            Failure::LookupAmbiguous,
        ),
        (SEVERAL.to_owned(), Failure::LookupAmbiguous),
        (
            "cannot resume stream; the resume token was not found".to_owned(),
            Failure::TokenNotFound,
        ),
    ] {
        let reply = ErrorReply {
            code: 280,
            name: "ChangeStreamFatalError",
            message: &message,
            not_resumable: true,
            ..ErrorReply::default()
        };
        assert_eq!(classify(reply), expected, "{message}");
        assert_eq!(opening(reply, true, true), expected, "{message}");
    }
}
