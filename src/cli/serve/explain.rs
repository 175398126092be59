//! `--check-config --explain PRINCIPAL NAMESPACE`: what a caller would see, by the decisions of the server itself.

mod caller;
mod granted;
mod report;
mod shown;

use std::{io::Write as _, path::PathBuf};

use clap::{Args, ValueEnum};

use crate::{
    cli::watch::scope::Scope,
    config::ServeConfig,
    model::{BeforeChange, RequestError},
    pb,
    pipeline::Watch,
    policy::{AccessRequest, Denial, FULL_DOCUMENTS},
    rpc::Access,
};
use caller::Caller;
use granted::Granted;
use report::{Report, Verdict};
use shown::Shown;

/// What to explain beside the check of the settings.
#[derive(Debug, Clone, Args)]
pub(super) struct ExplainArgs {
    /// With --check-config: print what a caller would see of a namespace. PRINCIPAL is key:NAME, jwt:NAME, cert:NAME
    /// or anonymous; NAMESPACE is DB.COLLECTION, DB.A,B, DB or * for the deployment. Exits with 1 if the caller is
    /// denied
    #[arg(long, num_args = 2, value_names = ["PRINCIPAL", "NAMESPACE"], requires = "check_config")]
    explain: Vec<String>,
    /// The caller's claims for --explain, a JSON object. Without it, an API key has those of its file, a token only
    /// its name, and a certificate the name as its only one
    #[arg(long, value_name = "JSON", requires = "explain")]
    claims: Option<String>,
    /// With --explain: show a document as the caller would get it. FILE holds it in Extended JSON; - is standard
    /// input. Exits with 1 if the caller would not get it
    #[arg(long = "try", value_name = "FILE", requires = "explain")]
    document: Option<PathBuf>,
    /// The format of what --explain prints
    #[arg(long, value_enum, default_value = "text", requires = "explain")]
    explain_output: OutputFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum OutputFormat {
    /// Lines for people
    Text,
    /// One JSON object, for programs
    Json,
}

impl ExplainArgs {
    /// Returns whether there is something to explain.
    pub(super) fn is_given(&self) -> bool {
        !self.explain.is_empty()
    }
}

/// Prints what a caller would see. Returns whether it may watch, and would get the document if one is tried.
///
/// # Errors
/// The reason why the question can't be answered.
pub(super) fn run(
    args: &ExplainArgs,
    config: &ServeConfig,
    access: &Access,
) -> Result<bool, String> {
    let report = report(args, config, access)?;
    let text = match args.explain_output {
        OutputFormat::Text => report.text(),
        OutputFormat::Json => format!("{}\n", report.json()),
    };
    // The exit code says it too, whoever reads the words.
    let _ = std::io::stdout().lock().write_all(text.as_bytes());
    Ok(report.is_positive())
}

fn report(args: &ExplainArgs, config: &ServeConfig, access: &Access) -> Result<Report, String> {
    let [principal, namespace] = args.explain.as_slice() else {
        return Err("--explain: needs PRINCIPAL and NAMESPACE".to_owned());
    };
    let caller = Caller::read(principal, args.claims.as_deref(), config, access)?;
    let document = args.document.as_deref().map(shown::read).transpose()?;
    let mut report = Report::new(principal, namespace, caller.notes.clone());
    let asked = request(namespace).map_err(|why| format!("--explain: NAMESPACE: {why}"))?;
    let watch = match Watch::from_request(asked, &config.request_limits()) {
        Ok(watch) => watch,
        Err(RequestError::Invalid(violations)) => {
            let each = violations.into_iter();
            let each = each.map(|it| format!("{} {}", it.field, it.description));
            let problems: Vec<String> = each.collect();
            return Err(format!("--explain: NAMESPACE: {}", problems.join("; ")));
        }
        Err(RequestError::DeploymentNotAllowed | RequestError::PipelineNotAllowed) => {
            let reason = "the server runs without --allow-deployment-watch";
            report.verdict = Verdict::Denied(reason.to_owned());
            return Ok(report);
        }
    };
    if let Some(reason) = &caller.refusal {
        report.verdict = Verdict::Denied(reason.clone());
        return Ok(report);
    }
    report.rule = access
        .policy
        .deciding_rule(&caller.principal, &AccessRequest::of(&watch, None));
    match ask_policy(&caller, watch, config, access) {
        Ok((granted, watch)) => {
            report.shown = document
                .map(|it| Shown::of(&it, &granted, &watch))
                .transpose()?;
            report.verdict = Verdict::Allowed(granted);
        }
        Err(denial) => {
            let mut reason = denial.reason.to_owned();
            if let Some(rule) = &report.rule {
                let missing = caller.missing(&rule.filter_claims);
                if !missing.is_empty() {
                    reason = format!("{reason}: {}", missing.join(", "));
                }
            }
            report.verdict = Verdict::Denied(reason);
        }
    }
    Ok(report)
}

/// Asks the policy for everything that a request may ask for. Returns what is granted, and the narrowed watch of a
/// request that asks for as little as it can.
fn ask_policy(
    caller: &Caller,
    watch: Watch,
    config: &ServeConfig,
    access: &Access,
) -> Result<(Granted, Watch), Denial> {
    let judge = |watch: &Watch, pipeline: bool| {
        let mut request = AccessRequest::of(watch, None);
        request.pipeline = pipeline;
        access.policy.judge(&caller.principal, &request)
    };
    let with = |full_document, expanded| Watch {
        full_document,
        expanded,
        ..watch.clone()
    };
    let mut outcome = judge(&watch, false).map(|it| (it, watch.clone()));
    let mut full_documents = Vec::new();
    for (value, name) in FULL_DOCUMENTS {
        let mut is_granted = false;
        for watch in [false, true].map(|expanded| with(value, expanded)) {
            let Ok(decision) = judge(&watch, false) else {
                continue;
            };
            is_granted = true;
            if outcome.is_err() {
                outcome = Ok((decision, watch));
            }
        }
        full_documents.extend(is_granted.then_some((value, name)));
    }
    let (decision, mut watch) = outcome?;
    let before_change = BeforeChange::WhenAvailable;
    let pre_images = judge(
        &Watch {
            before_change,
            ..watch.clone()
        },
        false,
    )
    .is_ok();
    let expanded = judge(&with(watch.full_document, true), false);
    let pipeline = match judge(&watch, true) {
        _ if !config.request_limits().allow_pipeline => {
            Err("the server runs without --allow-pipeline")
        }
        Ok(_) => Ok(()),
        Err(denial) => Err(denial.reason),
    };
    let granted = Granted {
        operations: if watch.expanded {
            // Without show_expanded_events, the server denies the request.
            Vec::new()
        } else {
            granted::operations(decision.operations.as_ref(), false)
        },
        with_expanded: expanded
            .ok()
            .map(|it| granted::operations(it.operations.as_ref(), true)),
        full_documents,
        pre_images,
        pipeline,
        limits: granted::limits(
            decision.limits.as_ref(),
            &config.service_limits().each_principal,
        ),
        tokens_encrypted: access.policy.tokens_encrypted(),
        view: decision.view.clone(),
    };
    decision.narrow(&mut watch);
    Ok((granted, watch))
}

fn request(namespace: &str) -> Result<pb::WatchRequest, String> {
    let scope = match namespace {
        "*" => Scope::default(),
        // A policy writes the whole database so.
        name if name.ends_with(".*") => name[..name.len() - 2].parse()?,
        name => name.parse()?,
    };
    Ok(pb::WatchRequest {
        database: scope.database,
        collections: scope.collections,
        document_format: pb::DocumentFormat::Json.into(),
        ..pb::WatchRequest::default()
    })
}
