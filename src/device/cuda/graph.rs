//! CUDA graphs: launches recorded once, replayed with one call.

use std::fmt;

use cudarc::driver::{CudaGraph, sys};

use super::{Cuda, fail};
use crate::error::{Error, Result};

/// Launches with the arguments and addresses that they had when recorded.
pub struct Graph(CudaGraph);

// SAFETY: a graph may move between threads as long as one at a time uses it (CUDA driver API, "Graph object thread
// safety"); it is not `Sync`.
unsafe impl Send for Graph {}

impl fmt::Debug for Graph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Graph")
    }
}

impl Cuda {
    /// Records what `work` enqueues, without running it.
    pub(super) fn capture(&self, work: &mut dyn FnMut() -> Result<()>) -> Result<Graph> {
        self.bind()?;
        let stream = &self.0.stream;
        // Other threads may go on using the driver meanwhile.
        stream
            .begin_capture(sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)
            .map_err(fail("begin of a graph"))?;
        let done = work();
        let graph = stream.end_capture(sys::CUgraphInstantiate_flags(0)).map_err(fail("end of a graph"));
        done?;
        graph?
            .map(Graph)
            .ok_or_else(|| Error::Device { device: "cuda".into(), what: "an empty graph".into() })
    }

    pub(super) fn launch_graph(&self, graph: &Graph) -> Result<()> {
        graph.0.launch().map_err(fail("a graph"))
    }
}
