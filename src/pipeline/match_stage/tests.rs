use proptest::prelude::*;

use super::*;

#[test]
fn a_prefix_pattern_is_anchored_and_escapes_special_characters() {
    for (prefix, pattern) in [
        ("", "^"),
        ("abc", "^abc"),
        ("a_1", "^a_1"),
        ("^$.|?*+()[]{}\\", r"^\^\$\.\|\?\*\+\(\)\[\]\{\}\\"),
        ("(*UTF8)", r"^\(\*UTF8\)"),
        ("\\E\\Q", r"^\\E\\Q"),
        ("a\nb", "^a\nb"),
        (" a ", "^ a "),
        ("-#/", r"^\-\#\/"),
        ("\0a", r"^\x00a"),
        ("übel\u{1F600}", "^übel\u{1F600}"),
    ] {
        assert_eq!(prefix_pattern(prefix), pattern);
    }
}

/// A condition that a test can set to true or false, on the document key or on the document.
fn leaf(on_key: bool, name: u8) -> Predicate {
    let path = if on_key {
        format!("_id.k{name}")
    } else {
        format!("f{name}")
    };
    Predicate::Field {
        path,
        op: Condition::Exists(true),
    }
}

fn predicates() -> impl Strategy<Value = Predicate> {
    let leaves = (any::<bool>(), 0_u8..3).prop_map(|(on_key, name)| leaf(on_key, name));
    leaves.prop_recursive(4, 24, 4, |inner| {
        let group = prop::collection::vec(inner, 1..4);
        prop_oneof![
            group.clone().prop_map(Predicate::AllOf),
            group.clone().prop_map(Predicate::AnyOf),
            group.prop_map(Predicate::NoneOf),
        ]
    })
}

/// Gives every leaf a distinct path.
fn make_paths_distinct(predicate: &mut Predicate, next: &mut u8) {
    match predicate {
        Predicate::Field { path, .. } => {
            let stem = if is_id_path(path) { "_id.k" } else { "f" };
            *path = format!("{stem}{next}");
            *next += 1;
        }
        Predicate::AllOf(parts) | Predicate::AnyOf(parts) | Predicate::NoneOf(parts) => {
            for part in parts {
                make_paths_distinct(part, next);
            }
        }
    }
}

fn paths(predicate: &Predicate, found: &mut Vec<String>) {
    match predicate {
        Predicate::Field { path, .. } => {
            if !found.contains(path) {
                found.push(path.clone());
            }
        }
        Predicate::AllOf(parts) | Predicate::AnyOf(parts) | Predicate::NoneOf(parts) => {
            parts.iter().for_each(|part| paths(part, found));
        }
    }
}

fn holds(predicate: &Predicate, truth: &dyn Fn(&str) -> bool) -> bool {
    match predicate {
        Predicate::Field { path, .. } => truth(path),
        Predicate::AllOf(parts) => parts.iter().all(|part| holds(part, truth)),
        Predicate::AnyOf(parts) => parts.iter().any(|part| holds(part, truth)),
        Predicate::NoneOf(parts) => !parts.iter().any(|part| holds(part, truth)),
    }
}

/// Evaluates the predicate by the definition of Kleene's logic; `None` is unknown.
fn kleene(predicate: &Predicate, truth: &dyn Fn(&str) -> Option<bool>) -> Option<bool> {
    let any = |parts: &[Predicate]| {
        let values: Vec<_> = parts.iter().map(|part| kleene(part, truth)).collect();
        if values.contains(&Some(true)) {
            Some(true)
        } else if values.contains(&None) {
            None
        } else {
            Some(false)
        }
    };
    match predicate {
        Predicate::Field { path, .. } => truth(path),
        Predicate::AllOf(parts) => {
            let values: Vec<_> = parts.iter().map(|part| kleene(part, truth)).collect();
            if values.contains(&Some(false)) {
                Some(false)
            } else if values.contains(&None) {
                None
            } else {
                Some(true)
            }
        }
        Predicate::AnyOf(parts) => any(parts),
        Predicate::NoneOf(parts) => any(parts).map(|value| !value),
    }
}

/// Evaluates a translated condition as MongoDB does; its leaves come from [`leaf`].
fn evaluate(condition: &Document, truth: &dyn Fn(&str) -> bool) -> bool {
    condition.iter().all(|(key, value)| {
        let parts = || {
            let parts = value.as_array().unwrap();
            assert!(!parts.is_empty(), "MongoDB refuses an empty {key}");
            parts
                .iter()
                .map(|part| evaluate(part.as_document().unwrap(), truth))
        };
        match key.as_str() {
            "$and" => parts().all(|part| part),
            "$or" => parts().any(|part| part),
            "$nor" => !parts().any(|part| part),
            path => {
                assert_eq!(value, &Bson::Document(doc! { "$exists": true }));
                truth(path)
            }
        }
    })
}

fn clause_holds(clause: &Clause, truth: &dyn Fn(&str) -> bool) -> bool {
    match clause {
        Clause::Always => true,
        Clause::Never => false,
        Clause::When(condition) => evaluate(condition, &|path| {
            truth(
                path.strip_prefix("documentKey.")
                    .expect("a path below the key"),
            )
        }),
    }
}

/// Returns every assignment of true or false to these paths.
fn assignments(paths: Vec<String>) -> impl Iterator<Item = impl Fn(&str) -> bool> {
    assert!(paths.len() <= 16);
    (0..1_u32 << paths.len()).map(move |bits| {
        let paths = paths.clone();
        move |path: &str| {
            let index = paths.iter().position(|known| known == path).unwrap();
            bits >> index & 1 == 1
        }
    })
}

fn split_paths(predicate: &Predicate) -> (Vec<String>, Vec<String>) {
    let mut all = Vec::new();
    paths(predicate, &mut all);
    all.into_iter().partition(|path| is_id_path(path))
}

proptest! {
    #[test]
    fn with_a_document_the_translation_is_exact(predicate in predicates()) {
        let Clause::When(condition) = with_document(&predicate, "fullDocument") else {
            return Err(TestCaseError::fail("a leaf depends on the event"));
        };
        let (key_paths, document_paths) = split_paths(&predicate);
        for truth in assignments([key_paths, document_paths].concat()) {
            let holds_in_mongodb = evaluate(&condition, &|path| {
                let path = path.strip_prefix("documentKey.").or(path.strip_prefix("fullDocument."));
                truth(path.unwrap())
            });
            prop_assert_eq!(holds_in_mongodb, holds(&predicate, &truth));
        }
    }

    #[test]
    fn without_a_document_the_translation_follows_kleenes_logic(predicate in predicates()) {
        let (certain_match, possible_match) = (certain_match(&predicate), possible_match(&predicate));
        let (key_paths, _) = split_paths(&predicate);
        for key in assignments(key_paths) {
            let known = kleene(&predicate, &|path| is_id_path(path).then(|| key(path)));
            prop_assert_eq!(clause_holds(&certain_match, &key), known == Some(true));
            prop_assert_eq!(clause_holds(&possible_match, &key), known != Some(false));
        }
    }

    #[test]
    fn with_distinct_conditions_the_translation_is_exact_over_all_documents(
        mut predicate in predicates()
            .prop_filter("few leaves", |predicate| {
                let mut leaves = 0;
                make_paths_distinct(&mut predicate.clone(), &mut leaves);
                leaves <= 10
            })
    ) {
        make_paths_distinct(&mut predicate, &mut 0);
        let (certain_match, possible_match) = (certain_match(&predicate), possible_match(&predicate));
        let (key_paths, document_paths) = split_paths(&predicate);
        for key in assignments(key_paths) {
            let outcomes: Vec<bool> = assignments(document_paths.clone())
                .map(|document| {
                    holds(&predicate, &|path| {
                        if is_id_path(path) { key(path) } else { document(path) }
                    })
                })
                .collect();
            prop_assert_eq!(clause_holds(&certain_match, &key), outcomes.iter().all(|outcome| *outcome));
            prop_assert_eq!(clause_holds(&possible_match, &key), outcomes.iter().any(|outcome| *outcome));
        }
    }
}
