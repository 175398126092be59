//! Whether a watch may go on from a token that its client sent.

use crate::{
    error::Error,
    plan::View,
    wire::{ResumeToken, TokenContext},
};

/// Reads a client's token, and checks that it is of this deployment and scope, and was given to one who may
/// see the same. Of one that was not nothing else is said but its time, which is no secret, and which a watch
/// with the new view may start at.
pub(super) fn fitting(
    token: &[u8],
    token_context: &TokenContext,
    view: &View,
) -> Result<ResumeToken, Error> {
    let token = ResumeToken::decode(token, token_context.keys())
        .map_err(|problem| Error::TokenMalformed(problem.to_string()))?;
    let other_view = |of| Error::TokenMismatch {
        belongs_to: of,
        time: Some(token.position.time()).filter(|_| token.is_same_deployment(token_context)),
    };
    // Who can make a token can make one of another.
    if token_context.keys().is_some() && view.is_narrowed() && !token.was_encrypted() {
        return Err(other_view(
            "a server that does not encrypt its tokens, or to another view",
        ));
    }
    if token.audience() != view.audience {
        return Err(other_view(
            "another principal's view, or to one that has changed",
        ));
    }
    let other_place = |of| Error::TokenMismatch {
        belongs_to: of,
        time: None,
    };
    if !token.is_same_deployment(token_context) {
        return Err(other_place("another MongoDB deployment"));
    }
    if !token.is_same_scope(token_context) {
        return Err(other_place(
            "another database or other collections than this request names",
        ));
    }
    Ok(token)
}
