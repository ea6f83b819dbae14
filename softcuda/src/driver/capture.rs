//! Stream capture: `cuStreamBeginCapture` to `cuStreamEndCapture`, and which calls a capture forbids.

use std::{
    cell::Cell,
    collections::BTreeMap,
    thread::{self, ThreadId},
};

use super::{
    Driver, call,
    error::{CUresult, Result},
    ffi::Out,
    graph::Graph,
    in_context,
    stream::Kind,
    work::Work,
};

const GLOBAL: u32 = 0;
const RELAXED: u32 = 2;

thread_local! {
    /// How careful the thread wants to be about calls that are unsafe during a capture.
    static MODE: Cell<u32> = const { Cell::new(GLOBAL) };
}

/// A capture that has begun.
#[derive(Debug)]
pub struct Capture {
    /// The graph so far.
    graph: Graph,
    /// The stream it began in, where it must end.
    origin: usize,
    mode: u32,
    thread: ThreadId,
    /// A call spoilt it.
    invalid: bool,
    /// For each stream that takes part: the nodes that its next one comes after.
    streams: BTreeMap<usize, Vec<usize>>,
}

impl Capture {
    /// The nodes that a stream's next one comes after.
    pub fn frontier(&self, stream: usize) -> Vec<usize> {
        self.streams.get(&stream).cloned().unwrap_or_default()
    }
}

impl Driver {
    /// Adds work to the graph that a stream captures.
    pub fn capture(&mut self, stream: usize, work: Work) -> Result<()> {
        let node = self.handle();
        let capture = self.streams.get(stream)?.capture.ok_or(CUresult::CUDA_ERROR_ILLEGAL_STATE)?;
        let capture = self.captures.get_mut(capture)?;
        if capture.invalid {
            return Err(CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
        }
        let frontier = capture.streams.entry(stream).or_default();
        let after = std::mem::replace(frontier, vec![node]);
        capture.graph.add(node, work, after);
        Ok(())
    }

    /// A wait for an event where the event or the stream takes part in a capture.
    pub fn capture_wait(
        &mut self,
        stream: usize,
        captured: Option<(usize, Vec<usize>)>,
        recorded: bool,
    ) -> Result<()> {
        let own = self.streams.get(stream)?.capture;
        let Some((capture, nodes)) = captured else {
            // A capturing stream cannot wait for work outside of its capture.
            if let (true, Some(own)) = (recorded, own) {
                self.invalidate(own);
                return Err(CUresult::CUDA_ERROR_STREAM_CAPTURE_ISOLATION);
            }
            return Ok(());
        };
        if self.captures.get(capture).is_err() {
            // The capture has ended: its event means nothing outside of the graph.
            return Err(CUresult::CUDA_ERROR_CAPTURED_EVENT);
        }
        match own {
            Some(own) if own != capture => {
                self.invalidate(own);
                self.invalidate(capture);
                return Err(CUresult::CUDA_ERROR_STREAM_CAPTURE_MERGE);
            }
            Some(_) => {}
            None if self.streams.get(stream)?.kind == Kind::Legacy => {
                self.invalidate(capture);
                return Err(CUresult::CUDA_ERROR_STREAM_CAPTURE_IMPLICIT);
            }
            None => self.streams.get_mut(stream)?.capture = Some(capture),
        }
        let capture = self.captures.get_mut(capture)?;
        if capture.invalid {
            return Err(CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
        }
        let frontier = capture.streams.entry(stream).or_default();
        frontier.extend(nodes);
        frontier.sort_unstable();
        frontier.dedup();
        Ok(())
    }

    /// Spoils a capture: it can only be ended.
    pub fn invalidate(&mut self, capture: usize) {
        if let Ok(capture) = self.captures.get_mut(capture) {
            capture.invalid = true;
        }
    }

    /// Spoils the captures that `forbids` holds for, and says whether there were any.
    fn spoil(&mut self, forbids: impl Fn(&Capture) -> bool) -> bool {
        let mut found = false;
        for capture in self.captures.0.values_mut().filter(|c| forbids(c)) {
            capture.invalid = true;
            found = true;
        }
        found
    }

    /// For calls that are unsafe during a capture, such as allocations.
    pub fn not_while_capturing(&mut self) -> Result<()> {
        let (mode, thread) = (MODE.get(), thread::current().id());
        let forbids = |c: &Capture| match mode {
            RELAXED => false,
            GLOBAL if c.mode == GLOBAL => true,
            _ => c.thread == thread && c.mode != RELAXED,
        };
        match self.spoil(forbids) {
            true => Err(CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED),
            false => Ok(()),
        }
    }

    /// For calls that wait for a whole context.
    pub fn no_capture_in(&mut self, context: usize) -> Result<()> {
        let streams = self.streams.0.values().filter(|s| s.context == context);
        let captures: Vec<usize> = streams.filter_map(|s| s.capture).collect();
        captures.iter().for_each(|&capture| self.invalidate(capture));
        if captures.is_empty() { Ok(()) } else { Err(CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED) }
    }

    /// For work in the legacy default stream, which would wait for every blocking stream.
    pub fn no_blocking_capture(&mut self, context: usize) -> Result<()> {
        let streams = self.streams.0.values().filter(|s| s.context == context && s.kind == Kind::Blocking);
        let captures: Vec<usize> = streams.filter_map(|s| s.capture).collect();
        captures.iter().for_each(|&capture| self.invalidate(capture));
        if captures.is_empty() { Ok(()) } else { Err(CUresult::CUDA_ERROR_STREAM_CAPTURE_IMPLICIT) }
    }

    /// For calls that wait for a stream.
    pub fn not_captured(&mut self, stream: usize) -> Result<()> {
        match self.streams.get(stream)?.capture {
            Some(capture) => {
                self.invalidate(capture);
                Err(CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED)
            }
            None => Ok(()),
        }
    }

    /// Ends a capture.
    fn end_capture(&mut self, stream: usize) -> Result<Graph> {
        let handle = self.streams.get(stream)?.capture.ok_or(CUresult::CUDA_ERROR_ILLEGAL_STATE)?;
        let capture = self.captures.get(handle)?;
        if capture.origin != stream {
            self.invalidate(handle);
            return Err(CUresult::CUDA_ERROR_STREAM_CAPTURE_UNMATCHED);
        }
        if capture.mode != RELAXED && capture.thread != thread::current().id() {
            return Err(CUresult::CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD);
        }
        let capture = self.captures.remove(handle)?;
        for stream in self.streams.0.values_mut().filter(|s| s.capture == Some(handle)) {
            stream.capture = None;
        }
        if capture.invalid {
            self.drop_children(&capture.graph);
            return Err(CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
        }
        let joined = capture.graph.ancestors(&capture.frontier(stream));
        if capture.streams.values().flatten().any(|node| !joined.contains(node)) {
            self.drop_children(&capture.graph);
            return Err(CUresult::CUDA_ERROR_STREAM_CAPTURE_UNJOINED);
        }
        Ok(capture.graph)
    }

    /// 0 none, 1 active, 2 invalidated.
    fn capture_status(&self, stream: usize) -> Result<(u32, usize)> {
        Ok(match self.streams.get(stream)?.capture {
            None => (0, 0),
            Some(capture) => (1 + u32::from(self.captures.get(capture)?.invalid), capture),
        })
    }
}

#[unsafe(no_mangle)]
extern "C" fn cuStreamBeginCapture_v2(stream: usize, mode: u32) -> CUresult {
    in_context(|driver, context| {
        let stream = driver.stream(context, stream)?;
        let found = driver.streams.get(stream)?;
        if mode > RELAXED {
            return Err(CUresult::CUDA_ERROR_INVALID_VALUE);
        }
        if found.kind == Kind::Legacy {
            return Err(CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
        }
        if found.capture.is_some() {
            return Err(CUresult::CUDA_ERROR_ILLEGAL_STATE);
        }
        let handle = driver.handle();
        let capture = Capture {
            graph: Graph::default(),
            origin: stream,
            mode,
            thread: thread::current().id(),
            invalid: false,
            streams: BTreeMap::from([(stream, Vec::new())]),
        };
        driver.captures.0.insert(handle, capture);
        driver.streams.get_mut(stream)?.capture = Some(handle);
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuStreamEndCapture(stream: usize, graph: Out<usize>) -> CUresult {
    in_context(|driver, context| {
        graph.put(0)?;
        let stream = driver.stream(context, stream)?;
        let captured = driver.end_capture(stream)?;
        graph.put(driver.insert_graph(captured))
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuStreamIsCapturing(stream: usize, status: Out<u32>) -> CUresult {
    in_context(|driver, context| {
        let stream = driver.stream(context, stream)?;
        if driver.streams.get(stream)?.kind == Kind::Legacy {
            driver.no_blocking_capture(context)?;
        }
        status.put(driver.capture_status(stream)?.0)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuStreamGetCaptureInfo(stream: usize, status: Out<u32>, id: Out<u64>) -> CUresult {
    in_context(|driver, context| {
        let stream = driver.stream(context, stream)?;
        let (found, capture) = driver.capture_status(stream)?;
        status.put(found)?;
        id.put_if_wanted(capture as u64);
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuThreadExchangeStreamCaptureMode(mode: Out<u32>) -> CUresult {
    call(|_| {
        let new = mode.get()?;
        if new > RELAXED {
            return Err(CUresult::CUDA_ERROR_INVALID_VALUE);
        }
        mode.put(MODE.replace(new))
    })
}
