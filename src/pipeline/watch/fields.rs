//! The validation of `WatchRequest.fields`.

use crate::filter::parse::path_problem;
use crate::model::{FieldMask, Findings, quoted};

const MAX_FIELDS: usize = 200;

/// Returns the mask that shows the fields at these paths, everything if there are none; notes each invalid
/// path as a violation.
pub(super) fn field_mask(fields: &[String], findings: &mut Findings) -> FieldMask {
    if fields.len() > MAX_FIELDS {
        findings.invalid(
            "fields",
            format!(
                "contains {} paths; use at most {MAX_FIELDS}, or none for every field",
                fields.len()
            ),
        );
        return FieldMask::default();
    }
    let problem = |(index, path): (usize, &String)| Some((index, path_problem(path)?));
    let mut problems: Vec<_> = fields.iter().enumerate().filter_map(problem).collect();
    if problems.is_empty() {
        problems = collisions(fields);
    }
    if problems.is_empty() {
        // Its errors are among the problems above.
        return FieldMask::including(fields.iter().cloned()).unwrap_or_default();
    }
    for (index, description) in problems {
        findings.invalid(format!("fields[{index}]"), description);
    }
    FieldMask::default()
}

/// Returns each path that is named twice or below another one: its index, the later one of two equal paths,
/// and a description that names the other.
fn collisions(fields: &[String]) -> Vec<(usize, String)> {
    let mut sorted: Vec<(Vec<&str>, usize)> = fields
        .iter()
        .enumerate()
        .map(|(index, path)| (path.split('.').collect(), index))
        .collect();
    // The paths below a path follow directly after it.
    sorted.sort();
    let mut found = Vec::new();
    let mut above: Option<&(Vec<&str>, usize)> = None;
    for path in &sorted {
        let (components, index) = path;
        let Some((shorter, other)) = above.filter(|(above, _)| components.starts_with(above))
        else {
            above = Some(path);
            continue;
        };
        let named = quoted(&fields[*other]);
        found.push((
            *index,
            if shorter.len() == components.len() {
                format!("is {named}, as fields[{other}] is; name it once")
            } else {
                format!(
                    "is {}, which is below fields[{other}], {named}; name one of them",
                    quoted(&fields[*index])
                )
            },
        ));
    }
    found.sort();
    found
}
