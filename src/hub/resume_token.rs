//! Validates the resume token of a client.

use crate::{
    error::Error,
    pipeline::Watch,
    wire::{ResumeToken, TokenContext},
};

/// Decodes a client's token and checks that it belongs to the same view, deployment and scope as the watch.
///
/// # Errors
/// The token is malformed or does not match. For a token of another view the error contains only
/// the token's time, which is not secret and at which a watch with the new view may start.
pub(super) fn check_resume_token(
    token: &[u8],
    token_context: &TokenContext,
    watch: &Watch,
) -> Result<ResumeToken, Error> {
    let token = ResumeToken::decode(token, token_context.keys())
        .map_err(|problem| Error::TokenMalformed(problem.to_string()))?;
    let other_view = |belongs_to| Error::TokenMismatch {
        belongs_to,
        time: Some(token.position.time()).filter(|_| token.is_same_deployment(token_context)),
    };
    // A client can forge an unencrypted token, also one of another view.
    if token_context.keys().is_some() && watch.is_restricted() && !token.was_encrypted() {
        return Err(other_view(
            "a server that does not encrypt its tokens, or to another view",
        ));
    }
    if token.token_audience() != watch.rendering.audience {
        return Err(other_view(
            "another principal's view, or to one that has changed",
        ));
    }
    let other_stream = |belongs_to| Error::TokenMismatch {
        belongs_to,
        time: None,
    };
    if !token.is_same_deployment(token_context) {
        return Err(other_stream("another MongoDB deployment"));
    }
    if !token.is_same_scope(token_context) {
        return Err(other_stream(
            "another database or other collections than this request names",
        ));
    }
    Ok(token)
}
