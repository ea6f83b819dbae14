//! Contexts: `cuCtx*` and `cuDevicePrimaryCtx*`.

use std::{collections::HashMap, thread::ThreadId};

use super::{
    CONTEXTS, Driver, Locked, call,
    error::{CUresult, Result, not_built},
    ffi::{In, Out},
    in_context,
    queue::Point,
    stream::{Kind, Stream},
};

/// A context.
#[derive(Debug)]
pub struct Context {
    /// The device's number.
    pub device: u32,
    /// Flags as the client gave them.
    pub flags: u32,
    /// The code of the first kernel that faulted here: every later call answers it.
    pub fault: Option<CUresult>,
    /// The legacy default stream.
    pub legacy: usize,
    /// The per-thread default streams.
    pub per_thread: HashMap<ThreadId, usize>,
    /// Bit `n`: memory of device `n` is reachable.
    pub peers: u64,
    /// Ends of streams that were destroyed with work in them.
    pub orphans: Vec<Point>,
    limits: HashMap<u32, usize>,
    cache_config: u32,
    primary: bool,
}

impl Driver {
    fn new_context(&mut self, device: u32, flags: u32, primary: bool) -> usize {
        let (context, legacy) = (self.handle(), self.handle());
        self.streams.0.insert(legacy, Stream::new(context, Kind::Legacy, 0));
        let new = Context {
            device,
            flags,
            fault: None,
            legacy,
            per_thread: HashMap::new(),
            peers: 0,
            orphans: Vec::new(),
            // Defaults of the runtime: stack, printf buffer, heap, depth, launches, fetch granularity, persisting L2.
            limits: HashMap::from([
                (0, 1024),
                (1, 1 << 20),
                (2, 8 << 20),
                (3, 2),
                (4, 2048),
                (5, 64),
                (6, 0),
            ]),
            cache_config: 0,
            primary,
        };
        self.contexts.0.insert(context, new);
        context
    }

    /// Where every stream of a context ends.
    pub fn ends(&self, context: usize) -> Vec<Point> {
        let streams = self.streams.0.values().filter(|s| s.context == context);
        let mut ends: Vec<Point> = streams.filter_map(|s| s.last.clone()).collect();
        ends.extend(self.contexts.0.get(&context).into_iter().flat_map(|c| c.orphans.iter().cloned()));
        ends
    }
}

impl Locked {
    /// Runs all work of a context.
    pub fn finish(&mut self, context: usize) -> Result<()> {
        let ends = self.ends(context);
        let done = self.wait(context, &ends);
        if let Ok(context) = self.contexts.get_mut(context) {
            context.orphans.clear();
        }
        done
    }

    /// Ends a context with all that it owns. Its memory is freed too.
    fn destroy_context(&mut self, context: usize) {
        // A faulted context can be destroyed like any other.
        let _ = self.finish(context);
        let driver = &mut **self;
        driver.queue.discard(context);
        driver.streams.0.retain(|_, s| s.context != context);
        driver.events.0.retain(|_, e| e.context != context);
        driver.functions.0.retain(|_, f| f.context != context);
        let modules: Vec<usize> =
            driver.modules.0.iter().filter(|(_, m)| m.context == context).map(|(h, _)| *h).collect();
        for module in modules {
            // It is in the table.
            let _ = driver.unload(module);
        }
        for address in driver.owned_by(context) {
            // It may be gone with its module.
            let _ = driver.memory.free(address);
        }
        driver.contexts.0.remove(&context);
    }
}

#[unsafe(no_mangle)]
extern "C" fn cuDevicePrimaryCtxRetain(context: Out<usize>, device: i32) -> CUresult {
    call(|driver| {
        let flags = driver.device(device)?.flags;
        let primary = match driver.device(device)?.primary {
            Some(primary) => primary,
            None => driver.new_context(device as u32, flags, true),
        };
        context.put(primary)?;
        let device = driver.device(device)?;
        device.primary = Some(primary);
        device.retained += 1;
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuDevicePrimaryCtxRelease_v2(device: i32) -> CUresult {
    call(|driver| {
        let state = driver.device(device)?;
        state.retained = state.retained.checked_sub(1).ok_or(CUresult::CUDA_ERROR_INVALID_CONTEXT)?;
        if state.retained == 0
            && let Some(primary) = state.primary.take()
        {
            driver.destroy_context(primary);
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuDevicePrimaryCtxReset_v2(device: i32) -> CUresult {
    call(|driver| {
        let state = driver.device(device)?;
        state.retained = 0;
        if let Some(primary) = state.primary.take() {
            driver.destroy_context(primary);
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuDevicePrimaryCtxSetFlags_v2(device: i32, flags: u32) -> CUresult {
    call(|driver| {
        driver.device(device)?.flags = flags;
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuDevicePrimaryCtxGetState(device: i32, flags: Out<u32>, active: Out<i32>) -> CUresult {
    call(|driver| {
        let state = driver.device(device)?;
        flags.put(state.flags)?;
        active.put(i32::from(state.primary.is_some()))
    })
}

fn create(context: Out<usize>, flags: u32, device: i32) -> CUresult {
    call(|driver| {
        driver.device(device)?;
        context.check()?;
        let new = driver.new_context(device as u32, flags, false);
        CONTEXTS.with_borrow_mut(|stack| stack.push(new));
        context.put(new)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxCreate_v2(context: Out<usize>, flags: u32, device: i32) -> CUresult {
    create(context, flags, device)
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxCreate_v3(
    context: Out<usize>,
    affinity: In<u32>,
    _affinities: i32,
    flags: u32,
    device: i32,
) -> CUresult {
    if affinity.is_null() {
        create(context, flags, device)
    } else {
        not_built("cuCtxCreate_v3 with affinity")
    }
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxCreate_v4(context: Out<usize>, params: In<usize>, flags: u32, device: i32) -> CUresult {
    if params.is_null() {
        create(context, flags, device)
    } else {
        not_built("cuCtxCreate_v4 with parameters")
    }
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxDestroy_v2(context: usize) -> CUresult {
    call(|driver| {
        if driver.contexts.get(context).map_err(|_| CUresult::CUDA_ERROR_INVALID_CONTEXT)?.primary {
            return Err(CUresult::CUDA_ERROR_INVALID_CONTEXT);
        }
        driver.destroy_context(context);
        CONTEXTS.with_borrow_mut(|stack| {
            if stack.last() == Some(&context) {
                stack.pop();
            }
        });
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxSetCurrent(context: usize) -> CUresult {
    call(|driver| {
        if context != 0 {
            driver.contexts.get(context).map_err(|_| CUresult::CUDA_ERROR_INVALID_CONTEXT)?;
        }
        CONTEXTS.with_borrow_mut(|stack| {
            stack.pop();
            stack.push(context);
        });
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxGetCurrent(context: Out<usize>) -> CUresult {
    call(|_| context.put(CONTEXTS.with_borrow(|stack| stack.last().copied().unwrap_or(0))))
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxPushCurrent_v2(context: usize) -> CUresult {
    call(|driver| {
        driver.contexts.get(context).map_err(|_| CUresult::CUDA_ERROR_INVALID_CONTEXT)?;
        CONTEXTS.with_borrow_mut(|stack| stack.push(context));
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxPopCurrent_v2(context: Out<usize>) -> CUresult {
    call(|_| {
        let popped = CONTEXTS.with_borrow_mut(Vec::pop).ok_or(CUresult::CUDA_ERROR_INVALID_CONTEXT)?;
        context.put_if_wanted(popped);
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxGetDevice(device: Out<i32>) -> CUresult {
    in_context(|driver, context| device.put(driver.contexts.get(context)?.device as i32))
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxGetFlags(flags: Out<u32>) -> CUresult {
    in_context(|driver, context| flags.put(driver.contexts.get(context)?.flags))
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxSetFlags(flags: u32) -> CUresult {
    in_context(|driver, context| {
        driver.contexts.get_mut(context)?.flags = flags;
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxGetId(context: usize, id: Out<u64>) -> CUresult {
    call(|driver| {
        let current = CONTEXTS.with_borrow(|stack| stack.last().copied().unwrap_or(0));
        let context = if context == 0 { current } else { context };
        driver.contexts.get(context).map_err(|_| CUresult::CUDA_ERROR_INVALID_CONTEXT)?;
        id.put(context as u64)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxGetApiVersion(_context: usize, version: Out<u32>) -> CUresult {
    call(|_| version.put(3020))
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxSynchronize() -> CUresult {
    in_context(|driver, context| {
        driver.no_capture_in(context)?;
        driver.finish(context)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxGetLimit(value: Out<usize>, limit: u32) -> CUresult {
    in_context(|driver, context| {
        let limit = driver.contexts.get(context)?.limits.get(&limit);
        value.put(*limit.ok_or(CUresult::CUDA_ERROR_UNSUPPORTED_LIMIT)?)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxSetLimit(limit: u32, value: usize) -> CUresult {
    in_context(|driver, context| {
        let limit = driver.contexts.get_mut(context)?.limits.get_mut(&limit);
        *limit.ok_or(CUresult::CUDA_ERROR_UNSUPPORTED_LIMIT)? = value;
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxGetCacheConfig(config: Out<u32>) -> CUresult {
    in_context(|driver, context| config.put(driver.contexts.get(context)?.cache_config))
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxSetCacheConfig(config: u32) -> CUresult {
    in_context(|driver, context| {
        if config > 3 {
            return Err(CUresult::CUDA_ERROR_INVALID_VALUE);
        }
        driver.contexts.get_mut(context)?.cache_config = config;
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxResetPersistingL2Cache() -> CUresult {
    in_context(|_, _| Ok(()))
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxGetStreamPriorityRange(least: Out<i32>, greatest: Out<i32>) -> CUresult {
    in_context(|_, _| {
        least.put_if_wanted(0);
        greatest.put_if_wanted(-5);
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxEnablePeerAccess(peer: usize, flags: u32) -> CUresult {
    in_context(|driver, context| {
        let device = driver.contexts.get(peer).map_err(|_| CUresult::CUDA_ERROR_INVALID_CONTEXT)?.device;
        let own = driver.contexts.get_mut(context)?;
        if flags != 0 {
            return Err(CUresult::CUDA_ERROR_INVALID_VALUE);
        }
        if device == own.device {
            return Err(CUresult::CUDA_ERROR_INVALID_DEVICE);
        }
        if own.peers >> device & 1 == 1 {
            return Err(CUresult::CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED);
        }
        own.peers |= 1 << device;
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxDisablePeerAccess(peer: usize) -> CUresult {
    in_context(|driver, context| {
        let device = driver.contexts.get(peer).map_err(|_| CUresult::CUDA_ERROR_INVALID_CONTEXT)?.device;
        driver.finish(context)?;
        let own = driver.contexts.get_mut(context)?;
        if own.peers >> device & 1 == 0 {
            return Err(CUresult::CUDA_ERROR_PEER_ACCESS_NOT_ENABLED);
        }
        own.peers &= !(1 << device);
        Ok(())
    })
}
