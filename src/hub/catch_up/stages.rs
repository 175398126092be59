//! The stages of a catch-up's stream, for its watcher.

use crate::{
    hub::{
        catch_up_queue::{CatchUpQueue, QueueItem},
        stream::StageObserver,
    },
    model::Stage,
};

/// Reports the stages of the stream to the watcher.
pub(super) struct QueueStageObserver<'a>(pub &'a CatchUpQueue);

impl StageObserver for QueueStageObserver<'_> {
    fn stage_changed(&mut self, stage: Stage, reason: &'static str) {
        self.0.push(QueueItem::Stage(stage, reason));
    }
}
