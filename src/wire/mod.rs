/// Stands in until the frame codec is written.
#[derive(Debug)]
pub struct Frame;
/// Stands in until the frame codec is written.
#[derive(Debug, Default)]
pub struct FrameCodec;
