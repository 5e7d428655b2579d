//! The objects in use, and a bounded cache of idle ones.
//!
//! Invariants:
//! - At most one [`Object`] exists for a file: two threads that ask at once get the same one, so its lock means something.
//! - An object that somebody holds is never dropped from the table. Idle ones are, least recently used first, when the table
//!   holds more than its capacity.
//! - No file is opened, created or closed under the table's lock: a slow disk holds up only those who want the same file.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::Arc;

use parking_lot::Mutex;
use proto::ids::FileId;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::dirty::DirtyObjects;
use super::object::Object;
use super::objects::Objects;

/// How many objects a table keeps open by default.
pub const DEFAULT_CAPACITY: usize = 1024;
/// How many objects a lookup tries to drop at most, so that one with many files in use stays quick.
const TRIES: usize = 8;

/// The objects in use and in the cache. One for each store.
pub struct ObjectTable<S = ()> {
    objects: Arc<Objects>,
    dirty: Arc<DirtyObjects>,
    capacity: usize,
    state: Mutex<State<S>>,
}

struct State<S> {
    entries: HashMap<FileId, Entry<S>>,
    /// The files in the order of their last use.
    order: BTreeMap<u64, FileId>,
    /// The next number in `order`.
    tick: u64,
}

struct Entry<S> {
    slot: Arc<Slot<S>>,
    used: u64,
}

/// A file's place. Held by the table and by those that are just opening or fetching the object; its lock excludes them from one
/// another while the file is opened.
struct Slot<S> {
    object: Mutex<Option<Arc<Object<S>>>>,
}

impl<S: Default> ObjectTable<S> {
    /// An empty table that keeps up to `capacity` objects open, or more while more are in use.
    pub fn new(objects: Arc<Objects>, dirty: Arc<DirtyObjects>, capacity: usize) -> Self {
        let state = State { entries: HashMap::new(), order: BTreeMap::new(), tick: 0 };
        Self { objects, dirty, capacity, state: Mutex::new(state) }
    }

    /// The object of `file`, created if there is none.
    pub fn get(&self, file: FileId) -> io::Result<Arc<Object<S>>> {
        match self.fetch(file, true)? {
            Some(object) => Ok(object),
            None => Err(io::Error::new(io::ErrorKind::NotFound, format!("object {file} vanished while it was opened"))),
        }
    }

    /// The object of `file`, if there is one.
    pub fn find(&self, file: FileId) -> io::Result<Option<Arc<Object<S>>>> {
        self.fetch(file, false)
    }

    /// Closes the object of `file`, before it is removed. `false`: somebody holds it, and it stays.
    pub fn evict(&self, file: FileId) -> bool {
        let mut state = self.state.lock();
        let evicted = state.take_idle(file);
        let gone = !state.entries.contains_key(&file);
        drop(state);
        drop(evicted);
        gone
    }

    /// How many objects are open through the table.
    pub fn len(&self) -> usize {
        self.state.lock().entries.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn fetch(&self, file: FileId, create: bool) -> io::Result<Option<Arc<Object<S>>>> {
        let (slot, surplus) = {
            let mut state = self.state.lock();
            let slot = state.touch(file);
            (slot, state.shrink(self.capacity))
        };
        drop(surplus);
        let result = self.fill(file, &slot, create);
        if !matches!(result, Ok(Some(_))) {
            drop(slot);
            // Nothing was opened: leave no empty place behind, unless another thread is about to fill it.
            self.state.lock().take_empty(file);
        }
        result
    }

    fn fill(&self, file: FileId, slot: &Slot<S>, create: bool) -> io::Result<Option<Arc<Object<S>>>> {
        let mut place = slot.object.lock();
        if let Some(object) = &*place {
            return Ok(Some(Arc::clone(object)));
        }
        let Some(opened) = self.objects.open_object(file, create)? else { return Ok(None) };
        if opened.created {
            self.dirty.note_created(file);
        }
        let object = Arc::new(Object::new(file, opened.handle, S::default()));
        *place = Some(Arc::clone(&object));
        Ok(Some(object))
    }
}

impl<S> State<S> {
    /// The place of `file`, made if need be, as the most recently used one.
    fn touch(&mut self, file: FileId) -> Arc<Slot<S>> {
        let used = self.tick;
        self.tick += 1;
        let entry = self
            .entries
            .entry(file)
            .or_insert_with(|| Entry { slot: Arc::new(Slot { object: Mutex::new(None) }), used });
        self.order.remove(&entry.used);
        entry.used = used;
        self.order.insert(used, file);
        Arc::clone(&entry.slot)
    }

    /// Takes out idle objects beyond `capacity`, oldest first. Those in use that it meets count as just used, so that the next
    /// call looks at others. The caller drops, and so closes, what it gets outside the lock.
    fn shrink(&mut self, capacity: usize) -> Vec<Arc<Slot<S>>> {
        let mut surplus = Vec::new();
        for _ in 0..TRIES {
            if self.entries.len() <= capacity {
                break;
            }
            let Some((_, file)) = self.order.first_key_value() else { break };
            let file = *file;
            match self.take_idle(file) {
                Some(slot) => surplus.push(slot),
                None => drop(self.touch(file)),
            }
        }
        surplus
    }

    /// Takes the place of `file` out if nobody holds it or its object.
    ///
    /// Places are handed out only under the table's lock, which the caller has, and objects only by who holds the place or
    /// the object: so what has one owner now can't get a second one meanwhile.
    fn take_idle(&mut self, file: FileId) -> Option<Arc<Slot<S>>> {
        self.take_if(file, |object| object.is_none_or(|object| Arc::strong_count(object) == 1))
    }

    fn take_empty(&mut self, file: FileId) {
        self.take_if(file, |object| object.is_none());
    }

    fn take_if(&mut self, file: FileId, wanted: impl Fn(Option<&Arc<Object<S>>>) -> bool) -> Option<Arc<Slot<S>>> {
        let entry = self.entries.get(&file)?;
        if Arc::strong_count(&entry.slot) > 1 || !wanted(entry.slot.object.lock().as_ref()) {
            return None;
        }
        self.order.remove(&entry.used);
        self.entries.remove(&file).map(|entry| entry.slot)
    }
}

/// Lets this process open as many descriptors as the system allows it to. How many that is.
pub fn raise_descriptor_limit() -> io::Result<u64> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum {
        setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })?;
    }
    Ok(maximum.unwrap_or(u64::MAX))
}

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;
