//! Events: `cuEvent*`. They order streams and have a time: the host's, never a device's.

use std::time::Instant;

use super::{
    Driver, Locked, call,
    error::{CUresult, Result},
    ffi::Out,
    in_context,
    queue::Point,
    work::Work,
};

const DISABLE_TIMING: u32 = 2;

/// An event.
#[derive(Debug)]
pub struct Event {
    /// Its context.
    pub context: usize,
    /// Where it was last recorded.
    pub point: Option<Point>,
    /// The capture, and the nodes that it stands for there, if it was last recorded in one.
    pub captured: Option<(usize, Vec<usize>)>,
    flags: u32,
    time: Option<Instant>,
}

impl Driver {
    /// The item that records the event ran.
    pub fn event_reached(&mut self, event: usize, item: u64, time: Instant) {
        if let Ok(event) = self.events.get_mut(event)
            && event.point.as_ref().is_some_and(|point| point.item == item)
        {
            event.time = Some(time);
        }
    }

    /// Records an event in a stream or in its capture.
    pub fn record(&mut self, event: usize, stream: usize) -> Result<()> {
        let own = self.events.get(event)?.context;
        if self.streams.get(stream)?.context != own {
            return Err(CUresult::CUDA_ERROR_INVALID_HANDLE);
        }
        if let Some(capture) = self.streams.get(stream)?.capture {
            let nodes = self.captures.get(capture)?.frontier(stream);
            self.events.get_mut(event)?.captured = Some((capture, nodes));
            return Ok(());
        }
        let point = self.enqueue(stream, &[], Work::Record(event))?;
        let event = self.events.get_mut(event)?;
        event.point = Some(point);
        event.time = None;
        event.captured = None;
        Ok(())
    }

    /// Makes a stream wait for an event.
    pub fn wait_event(&mut self, stream: usize, event: usize) -> Result<()> {
        let event = self.events.get(event)?;
        let (captured, point) = (event.captured.clone(), event.point.clone());
        if captured.is_some() || self.streams.get(stream)?.capture.is_some() {
            return self.capture_wait(stream, captured, point.is_some());
        }
        match point {
            Some(point) => self.enqueue(stream, &[point], Work::Marker).map(|_| ()),
            // An event that was never recorded holds nobody up.
            None => Ok(()),
        }
    }

    fn recorded(&self, event: usize) -> Result<Option<Point>> {
        let event = self.events.get(event)?;
        match event.captured {
            Some(_) => Err(CUresult::CUDA_ERROR_CAPTURED_EVENT),
            None => Ok(event.point.clone()),
        }
    }
}

impl Locked {
    /// Does one piece of the work before `points`; `CUDA_ERROR_NOT_READY` if more is left.
    pub fn poll(&mut self, context: usize, points: &[Point]) -> Result<()> {
        if let Some(&first) = self.queue.needed(points).first() {
            self.run_item(first);
        }
        if points.iter().any(|point| self.queue.is_pending(point.item)) {
            self.check(context)?;
            return Err(CUresult::CUDA_ERROR_NOT_READY);
        }
        self.wait(context, points)
    }
}

#[unsafe(no_mangle)]
extern "C" fn cuEventCreate(event: Out<usize>, flags: u32) -> CUresult {
    in_context(|driver, context| {
        // Blocking, without time, shared with other processes (which needs the one before).
        if flags & !7 != 0 || flags & 4 != 0 && flags & DISABLE_TIMING == 0 {
            return Err(CUresult::CUDA_ERROR_INVALID_VALUE);
        }
        event.check()?;
        let handle = driver.handle();
        driver.events.0.insert(handle, Event { context, point: None, captured: None, flags, time: None });
        event.put(handle)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuEventDestroy_v2(event: usize) -> CUresult {
    call(|driver| driver.events.remove(event).map(|_| ()))
}

#[unsafe(no_mangle)]
extern "C" fn cuEventRecord(event: usize, stream: usize) -> CUresult {
    in_context(|driver, context| {
        let stream = driver.stream(context, stream)?;
        driver.record(event, stream)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuEventRecordWithFlags(event: usize, stream: usize, flags: u32) -> CUresult {
    in_context(|driver, context| {
        let stream = driver.stream(context, stream)?;
        // `CU_EVENT_RECORD_EXTERNAL` makes a node of its own in a capture.
        if flags == 1 && driver.streams.get(stream)?.capture.is_some() {
            driver.events.get(event)?;
            return driver.capture(stream, Work::Record(event));
        }
        driver.record(event, stream)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuEventQuery(event: usize) -> CUresult {
    in_context(|driver, context| match driver.recorded(event)? {
        Some(point) => driver.poll(context, &[point]),
        None => Ok(()),
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuEventSynchronize(event: usize) -> CUresult {
    in_context(|driver, context| match driver.recorded(event)? {
        Some(point) => driver.wait(context, &[point]),
        None => Ok(()),
    })
}

fn elapsed(milliseconds: Out<f32>, start: usize, end: usize) -> CUresult {
    in_context(|driver, _| {
        let time = |event: usize| {
            let event = driver.events.get(event)?;
            if event.point.is_none() || event.flags & DISABLE_TIMING != 0 {
                return Err(CUresult::CUDA_ERROR_INVALID_HANDLE);
            }
            event.time.ok_or(CUresult::CUDA_ERROR_NOT_READY)
        };
        let (start, end) = (time(start)?, time(end)?);
        let forward = end.saturating_duration_since(start).as_secs_f64();
        milliseconds.put(((forward - start.saturating_duration_since(end).as_secs_f64()) * 1e3) as f32)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuEventElapsedTime(milliseconds: Out<f32>, start: usize, end: usize) -> CUresult {
    elapsed(milliseconds, start, end)
}

#[unsafe(no_mangle)]
extern "C" fn cuEventElapsedTime_v2(milliseconds: Out<f32>, start: usize, end: usize) -> CUresult {
    elapsed(milliseconds, start, end)
}
