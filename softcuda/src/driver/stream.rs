//! Streams: `cuStream*`, and host functions in them. Capture is in [`super::capture`].

use std::thread;

use super::{
    Driver, call,
    error::{CUresult, Result},
    ffi::Out,
    in_context,
    queue::Point,
    work::{HostFunction, Work},
};

/// How a stream and the legacy default stream order each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The legacy default stream: it waits for all blocking streams, and they for it.
    Legacy,
    /// A stream that the legacy default stream orders.
    Blocking,
    /// A stream made with `CU_STREAM_NON_BLOCKING`: only its own order.
    NonBlocking,
}

/// A stream.
#[derive(Debug)]
pub struct Stream {
    /// Its context.
    pub context: usize,
    /// What it is to the legacy default stream.
    pub kind: Kind,
    /// Its end, once it had work.
    pub last: Option<Point>,
    /// The capture that takes its work.
    pub capture: Option<usize>,
    priority: i32,
}

impl Stream {
    /// A stream without work.
    pub fn new(context: usize, kind: Kind, priority: i32) -> Self {
        Self { context, kind, last: None, capture: None, priority }
    }
}

impl Driver {
    /// The stream that a client's handle means: 0 and 1 are the legacy default stream, 2 the thread's own.
    pub fn stream(&mut self, context: usize, handle: usize) -> Result<usize> {
        match handle {
            0 | 1 => Ok(self.contexts.get(context)?.legacy),
            2 => {
                let thread = thread::current().id();
                if let Some(&stream) = self.contexts.get(context)?.per_thread.get(&thread) {
                    return Ok(stream);
                }
                let stream = self.handle();
                self.streams.0.insert(stream, Stream::new(context, Kind::Blocking, 0));
                self.contexts.get_mut(context)?.per_thread.insert(thread, stream);
                Ok(stream)
            }
            other => {
                self.streams.get(other)?;
                Ok(other)
            }
        }
    }

    /// What the next item of a stream comes after.
    pub fn before_next(&mut self, stream: usize) -> Result<Vec<Point>> {
        let Stream { context, kind, ref last, .. } = *self.streams.get(stream)?;
        let mut after: Vec<Point> = last.iter().cloned().collect();
        match kind {
            Kind::NonBlocking => {}
            Kind::Blocking => {
                let legacy = self.contexts.get(context)?.legacy;
                after.extend(self.streams.get(legacy)?.last.clone());
            }
            Kind::Legacy => {
                self.no_blocking_capture(context)?;
                let others =
                    self.streams.0.values().filter(|s| s.context == context && s.kind == Kind::Blocking);
                after.extend(others.filter_map(|s| s.last.clone()));
                after.extend(self.contexts.get(context)?.orphans.iter().cloned());
            }
        }
        Ok(after)
    }

    /// All that a wait for a stream waits for.
    fn end_of(&mut self, stream: usize) -> Result<Vec<Point>> {
        match self.streams.get(stream)?.kind {
            Kind::Legacy => self.before_next(stream),
            _ => Ok(self.streams.get(stream)?.last.iter().cloned().collect()),
        }
    }
}

#[unsafe(no_mangle)]
extern "C" fn cuStreamCreate(stream: Out<usize>, flags: u32) -> CUresult {
    cuStreamCreateWithPriority(stream, flags, 0)
}

#[unsafe(no_mangle)]
extern "C" fn cuStreamCreateWithPriority(stream: Out<usize>, flags: u32, priority: i32) -> CUresult {
    in_context(|driver, context| {
        let kind = match flags {
            0 => Kind::Blocking,
            1 => Kind::NonBlocking,
            _ => return Err(CUresult::CUDA_ERROR_INVALID_VALUE),
        };
        stream.check()?;
        let handle = driver.handle();
        driver.streams.0.insert(handle, Stream::new(context, kind, priority.clamp(-5, 0)));
        stream.put(handle)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuStreamDestroy_v2(stream: usize) -> CUresult {
    call(|driver| {
        if stream <= 2 {
            return Err(CUresult::CUDA_ERROR_INVALID_HANDLE);
        }
        if let Some(capture) = driver.streams.get(stream)?.capture {
            driver.invalidate(capture);
        }
        let gone = driver.streams.remove(stream)?;
        if let (Some(last), Ok(context)) = (gone.last, driver.contexts.get_mut(gone.context)) {
            context.orphans.push(last);
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuStreamSynchronize(stream: usize) -> CUresult {
    in_context(|driver, context| {
        let stream = driver.stream(context, stream)?;
        driver.not_captured(stream)?;
        let end = driver.end_of(stream)?;
        driver.wait(context, &end)
    })
}

/// A device works on its own; here a query does one piece of the work that it asks about, so that polling ends.
#[unsafe(no_mangle)]
extern "C" fn cuStreamQuery(stream: usize) -> CUresult {
    in_context(|driver, context| {
        let stream = driver.stream(context, stream)?;
        driver.not_captured(stream)?;
        let end = driver.end_of(stream)?;
        driver.poll(context, &end)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuStreamWaitEvent(stream: usize, event: usize, _flags: u32) -> CUresult {
    in_context(|driver, context| {
        let stream = driver.stream(context, stream)?;
        driver.wait_event(stream, event)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuStreamGetPriority(stream: usize, priority: Out<i32>) -> CUresult {
    in_context(|driver, context| {
        let stream = driver.stream(context, stream)?;
        priority.put(driver.streams.get(stream)?.priority)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuStreamGetFlags(stream: usize, flags: Out<u32>) -> CUresult {
    in_context(|driver, context| {
        let stream = driver.stream(context, stream)?;
        flags.put(u32::from(driver.streams.get(stream)?.kind == Kind::NonBlocking))
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuStreamGetId(stream: usize, id: Out<u64>) -> CUresult {
    in_context(|driver, context| id.put(driver.stream(context, stream)? as u64))
}

#[unsafe(no_mangle)]
extern "C" fn cuStreamGetCtx(stream: usize, out: Out<usize>) -> CUresult {
    in_context(|driver, context| {
        let stream = driver.stream(context, stream)?;
        out.put(driver.streams.get(stream)?.context)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuStreamGetDevice(stream: usize, device: Out<i32>) -> CUresult {
    in_context(|driver, context| {
        let stream = driver.stream(context, stream)?;
        let context = driver.streams.get(stream)?.context;
        device.put(driver.contexts.get(context)?.device as i32)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuLaunchHostFunc(
    stream: usize,
    function: Option<unsafe extern "C" fn(*mut std::ffi::c_void)>,
    data: usize,
) -> CUresult {
    in_context(|driver, context| {
        if function.is_none() {
            return Err(CUresult::CUDA_ERROR_INVALID_VALUE);
        }
        let stream = driver.stream(context, stream)?;
        driver.submit(stream, Work::Host(HostFunction { function, data }))
    })
}
