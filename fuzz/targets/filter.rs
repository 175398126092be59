//! Fuzz target: a filter and an event. The index must find the same matches as the evaluators.

use std::collections::BTreeMap;

use prost::Message as _;
use weir::{
    filter::{Evaluator, EventFields, FilterIndex, MatchTransition, Residual},
    model::{BeforeChange, MissingImage, Operation},
    pb,
    pipeline::{RequestLimits, Watch},
};

use super::{
    fixtures,
    input::{Input, put_part},
};

/// Reads the input as a request and an event, inserts the filters into an index, together and each alone,
/// and compares the result with that of the evaluators.
pub fn run(data: &[u8]) {
    let mut input = Input(data);
    let request = input.part();
    let Ok(request) = pb::WatchRequest::decode(request) else {
        return;
    };
    let residuals = residuals(&request);
    if residuals.is_empty() {
        return;
    }
    let mut index = FilterIndex::new();
    for (key, residual) in residuals.iter().enumerate() {
        index.insert(key, residual);
    }
    let evaluators = residuals.iter().map(|residual| Evaluator::new(residual));
    let evaluators: Vec<Evaluator> = evaluators.collect();
    compare(&mut index, &evaluators, input.0);
    // The remaining filters are still found.
    for key in (0..evaluators.len()).step_by(2) {
        index.remove(key);
    }
    for operation in Operation::DOCUMENT {
        let fields = EventFields::read(operation, input.0);
        index.matches(&fields, |key, _| assert!(key % 2 == 1));
    }
}

fn compare(index: &mut FilterIndex<usize>, evaluators: &[Evaluator], event: &[u8]) {
    for operation in Operation::ALL {
        let fields = EventFields::read(operation, event);
        let mut found: BTreeMap<usize, MatchTransition> = BTreeMap::new();
        index.matches(&fields, |key, transition| {
            assert!(found.insert(key, transition).is_none(), "found twice");
        });
        let expected: BTreeMap<usize, MatchTransition> = evaluators
            .iter()
            .enumerate()
            .filter_map(|(key, evaluator)| Some((key, evaluator.evaluate(&fields)?)))
            .collect();
        assert_eq!(found, expected, "{operation:?}");
    }
}

/// Returns the request's filters together, with every policy for missing documents, and each filter alone
/// with one of the policies.
fn residuals(request: &pb::WatchRequest) -> Vec<Residual> {
    let limits = RequestLimits {
        allow_deployment: true,
        ..RequestLimits::default()
    };
    let policies = [
        (MissingImage::Deliver, BeforeChange::Off),
        (MissingImage::Drop, BeforeChange::Off),
        (MissingImage::Deliver, BeforeChange::WhenAvailable),
        (MissingImage::Drop, BeforeChange::Required),
    ];
    let alone = request.filters.iter().take(4).map(|filter| {
        let mut request = request.clone();
        request.filters = vec![filter.clone()];
        request
    });
    let together = policies.map(|_| request.clone());
    let requests = together
        .into_iter()
        .chain(alone)
        .zip(policies.iter().cycle());
    requests
        .filter_map(|(request, &(missing_image, before_change))| {
            let watch = Watch::from_request(request, &limits).ok()?;
            let watch = Watch {
                missing_image,
                before_change,
                ..watch
            };
            Some(watch.shared_residual())
        })
        .collect()
}

/// Returns every filter with an event that has its fields.
pub fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let events = fixtures::events();
    let with = |kind: &'static str| {
        let event = events.iter().find(|(name, _)| *name == kind);
        event
            .map(|(_, event)| event)
            .expect("there is one of every operation")
    };
    let (update, replace) = (with("update"), with("replace"));
    let requests = fixtures::requests().into_iter();
    requests
        .filter(|(_, request)| !request.filters.is_empty())
        .zip([update, replace].into_iter().cycle())
        .map(|((name, request), event)| {
            let mut seed = Vec::new();
            put_part(&mut seed, &request.encode_to_vec());
            seed.extend(event);
            (name, seed)
        })
        .collect()
}
