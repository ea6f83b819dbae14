//! The pool of KV blocks, with prefix caching.
//!
//! A full block of computed tokens is *registered* under a hash chained over everything before it. Later sequences
//! with the same beginning take it instead of computing it. Blocks without an owner stay registered until the pool
//! needs them, the least recently freed first.
//!
//! A hash only proposes: a hit must also have the same tokens and follow the same registered block, so collisions
//! cost a miss and never a wrong answer. Source: PagedAttention, arXiv:2309.06180; nano-vLLM's block manager.

use super::sequence::Sequence;

/// Hash of a block's tokens, seeded with the hash of the block before it (the cache salt for the first).
pub type BlockHash = fn(seed: u64, tokens: &[u32]) -> u64;

/// XXH3, the default [`BlockHash`].
pub fn xxh3(seed: u64, tokens: &[u32]) -> u64 {
    xxhash_rust::xxh3::xxh3_64_with_seed(bytemuck::cast_slice(tokens), seed)
}

/// Marks the end of a list of blocks.
const NONE: u32 = u32::MAX;

/// Blocks that a sequence with `held` of them lacks for `tokens` tokens. Most steps of a decode need none and no
/// division.
pub(super) fn new_blocks(tokens: usize, held: usize, block_size: usize) -> usize {
    match tokens.saturating_sub(held * block_size) {
        0 => 0,
        beyond => beyond.div_ceil(block_size),
    }
}

#[derive(Clone, Debug)]
struct Block {
    /// Sequences that hold it. Those with none are on the free list.
    refs: u32,
    /// Neighbours on the free list.
    prev: u32,
    next: u32,
    /// The next registered block in the same bucket.
    chain: u32,
    /// Its place in a sequence, in blocks.
    depth: u32,
    /// Unique name of this registration; 0 if it is not registered.
    name: u64,
    /// The name of the block before it; the cache salt at depth 0.
    parent: u64,
    hash: u64,
}

/// What a sequence without blocks finds in the prefix cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hit {
    /// Leading blocks that need not be computed.
    pub blocks: usize,
    /// Those of them without an owner, which taking them removes from the free blocks.
    pub revived: usize,
}

/// The pool of KV blocks. See the module.
#[derive(Debug)]
pub struct BlockManager {
    block_size: usize,
    blocks: Vec<Block>,
    /// Ends of the free list; blocks are taken from the head.
    head: u32,
    tail: u32,
    num_free: usize,
    /// Tokens of registered blocks, `[blocks, block_size]`.
    tokens: Vec<u32>,
    /// First registered block of those whose hashes end alike; a power of two of buckets.
    buckets: Vec<u32>,
    hash: Option<BlockHash>,
    next_name: u64,
}

impl BlockManager {
    /// A pool of `num_blocks` blocks of `block_size` tokens. Without a hash nothing is cached.
    pub fn new(num_blocks: usize, block_size: usize, hash: Option<BlockHash>) -> Self {
        assert!(
            block_size > 0 && num_blocks > 0 && num_blocks < NONE as usize,
            "{num_blocks} x {block_size}"
        );
        let block =
            Block { refs: 0, prev: NONE, next: NONE, chain: NONE, depth: 0, name: 0, parent: 0, hash: 0 };
        let cached = if hash.is_some() { num_blocks } else { 0 };
        let mut pool = Self {
            block_size,
            blocks: vec![block; num_blocks],
            head: NONE,
            tail: NONE,
            num_free: 0,
            tokens: vec![0; cached * block_size],
            buckets: vec![NONE; cached.next_power_of_two()],
            hash,
            next_name: 1,
        };
        // Each at the head: the first is on top.
        (0..num_blocks as u32).rev().for_each(|id| pool.push_free(id));
        pool
    }

    /// Tokens in a block.
    pub fn block_size(&self) -> usize {
        self.block_size
    }

    /// Blocks in the pool.
    pub fn num_blocks(&self) -> usize {
        self.blocks.len()
    }

    /// Blocks without an owner, those still in the prefix cache included.
    pub fn num_free(&self) -> usize {
        self.num_free
    }

    /// Sequences that hold this block.
    pub fn owners(&self, block: u32) -> usize {
        self.blocks[block as usize].refs as usize
    }

    /// Whether prefixes are cached.
    pub fn caches(&self) -> bool {
        self.hash.is_some()
    }

    /// What the prefix cache has of a sequence without blocks. At least its last token is left to compute.
    pub fn lookup(&self, seq: &Sequence) -> Hit {
        self.hits(seq).fold(Hit::default(), |hit, (block, _)| Hit {
            blocks: hit.blocks + 1,
            revived: hit.revived + usize::from(self.blocks[block as usize].refs == 0),
        })
    }

    /// Blocks of the pool that only this sequence holds: what preempting it would free.
    pub fn owned_alone(&self, seq: &Sequence) -> usize {
        seq.block_table.iter().filter(|&&block| self.blocks[block as usize].refs == 1).count()
    }

    /// The cached blocks that `seq` begins with, each with its registration's name.
    pub fn hits<'a>(&'a self, seq: &'a Sequence) -> impl Iterator<Item = (u32, u64)> + 'a {
        // Prompt log-probabilities need every position's logits.
        let reads = self.caches() && seq.prompt_logprobs_wanted().is_none();
        let most = if reads { (seq.len() - 1) / self.block_size } else { 0 };
        let mut parent = seq.options.cache_salt;
        seq.hashes.iter().take(most).enumerate().map_while(move |(depth, &hash)| {
            let block = self.find(hash, depth, parent, self.block_of(seq, depth))?;
            parent = self.blocks[block as usize].name;
            Some((block, parent))
        })
    }

    /// Extends `seq.hashes` to all full blocks of its tokens.
    pub fn extend_hashes(&self, seq: &mut Sequence) {
        let Some(hash) = self.hash else { return };
        for depth in seq.hashes.len()..seq.tokens.len() / self.block_size {
            let seed = seq.hashes.last().copied().unwrap_or(seq.options.cache_salt);
            seq.hashes.push(hash(seed, self.block_of(seq, depth)));
        }
    }

    /// Gives a sequence without blocks what the prefix cache has of it, and counts that as computed.
    pub fn take_hits(&mut self, seq: &mut Sequence) {
        debug_assert!(seq.block_table.is_empty());
        let mut table = std::mem::take(&mut seq.block_table);
        let mut last = seq.options.cache_salt;
        table.extend(self.hits(seq).map(|(block, name)| {
            last = name;
            block
        }));
        for &block in &table {
            if self.blocks[block as usize].refs == 0 {
                self.unlink_free(block);
            }
            self.blocks[block as usize].refs += 1;
        }
        seq.registered = (table.len(), last);
        seq.computed = table.len() * self.block_size;
        seq.block_table = table;
    }

    /// Gives a sequence blocks from the pool until it has room for `tokens`. The plan's check made sure of them.
    #[inline]
    pub fn grow(&mut self, seq: &mut Sequence, tokens: usize) {
        for _ in 0..new_blocks(tokens, seq.block_table.len(), self.block_size) {
            let id = self.head;
            self.unlink_free(id);
            self.unregister(id);
            self.blocks[id as usize].refs = 1;
            seq.block_table.push(id);
        }
    }

    /// Takes all blocks from a sequence; nothing of it counts as computed any more.
    pub fn release(&mut self, seq: &mut Sequence) {
        // The last block first, so that a prefix outlives what follows it.
        while let Some(id) = seq.block_table.pop() {
            self.blocks[id as usize].refs -= 1;
            if self.blocks[id as usize].refs == 0 {
                self.push_free(id);
            }
        }
        seq.computed = 0;
        seq.registered = (0, seq.options.cache_salt);
    }

    /// Enters the sequence's full blocks among its first `computed` tokens in the prefix cache.
    #[inline]
    pub fn register(&mut self, seq: &mut Sequence, computed: usize) {
        if self.caches() && computed >= (seq.registered.0 + 1) * self.block_size {
            self.register_new(seq, computed);
        }
    }

    fn register_new(&mut self, seq: &mut Sequence, computed: usize) {
        self.extend_hashes(seq);
        for depth in seq.registered.0..computed / self.block_size {
            let (hash, parent) = (seq.hashes[depth], seq.registered.1);
            let tokens = self.block_of(seq, depth);
            let name = match self.find(hash, depth, parent, tokens) {
                // Another sequence computed the same at the same time; its block is the one to share.
                Some(twin) => self.blocks[twin as usize].name,
                None => self.enter(seq.block_table[depth], hash, depth, parent, tokens),
            };
            seq.registered = (depth + 1, name);
        }
    }

    fn block_of<'a>(&self, seq: &'a Sequence, depth: usize) -> &'a [u32] {
        &seq.tokens[depth * self.block_size..][..self.block_size]
    }

    fn bucket(&self, hash: u64) -> usize {
        hash as usize & (self.buckets.len() - 1)
    }

    fn find(&self, hash: u64, depth: usize, parent: u64, tokens: &[u32]) -> Option<u32> {
        let mut id = self.buckets[self.bucket(hash)];
        while id != NONE {
            let block = &self.blocks[id as usize];
            let same = block.hash == hash && block.parent == parent && block.depth == depth as u32;
            if same && self.tokens[id as usize * self.block_size..][..self.block_size] == *tokens {
                return Some(id);
            }
            id = block.chain;
        }
        None
    }

    fn enter(&mut self, id: u32, hash: u64, depth: usize, parent: u64, tokens: &[u32]) -> u64 {
        let bucket = self.bucket(hash);
        let chain = std::mem::replace(&mut self.buckets[bucket], id);
        let name = self.next_name;
        self.next_name += 1;
        let block = &mut self.blocks[id as usize];
        *block = Block { hash, depth: depth as u32, parent, name, chain, ..*block };
        self.tokens[id as usize * self.block_size..][..self.block_size].copy_from_slice(tokens);
        name
    }

    fn unregister(&mut self, id: u32) {
        let Block { name, hash, chain, .. } = self.blocks[id as usize];
        if name == 0 {
            return;
        }
        self.blocks[id as usize].name = 0;
        let bucket = self.bucket(hash);
        if self.buckets[bucket] == id {
            self.buckets[bucket] = chain;
            return;
        }
        let mut at = self.buckets[bucket] as usize;
        while self.blocks[at].chain != id {
            at = self.blocks[at].chain as usize;
        }
        self.blocks[at].chain = chain;
    }

    /// Adds a block to the free list: at the end if it is cached, else at the head, to be taken first.
    fn push_free(&mut self, id: u32) {
        let cached = self.blocks[id as usize].name != 0;
        let (prev, next) = if cached { (self.tail, NONE) } else { (NONE, self.head) };
        let block = &mut self.blocks[id as usize];
        (block.prev, block.next) = (prev, next);
        self.link(prev, id, next, id);
        self.num_free += 1;
    }

    fn unlink_free(&mut self, id: u32) {
        let Block { prev, next, .. } = self.blocks[id as usize];
        self.link(prev, next, next, prev);
        self.num_free -= 1;
    }

    /// Makes `after` follow `prev` and `before` precede `next`, where `NONE` stands for the list's ends.
    fn link(&mut self, prev: u32, after: u32, next: u32, before: u32) {
        if prev == NONE {
            self.head = after
        } else {
            self.blocks[prev as usize].next = after
        }
        if next == NONE { self.tail = before } else { self.blocks[next as usize].prev = before }
    }
}
