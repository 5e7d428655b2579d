//! Inheritance: for each key the nearest directory that sets it wins. Pure.

use proto::ids::FileId;

use super::attribute::Setting;
use super::{Effective, Key};

/// What one directory sets.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Settings([Option<Setting>; Key::ALL.len()]);

impl Settings {
    /// Whether it sets nothing.
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(Option::is_none)
    }

    /// Its value for a key.
    pub fn get(&self, key: Key) -> Option<&Setting> {
        self.0[key.index()].as_ref()
    }

    /// Sets a key, or no longer sets it.
    pub fn set(&mut self, key: Key, setting: Option<Setting>) {
        self.0[key.index()] = setting;
    }

    /// What holds in `directory`, which sets this, if `above` holds in the directory that it stands in.
    pub fn below(&self, above: &Effective, directory: FileId) -> Effective {
        let mut effective = above.clone();
        for setting in self.0.iter().flatten() {
            setting.put(&mut effective.policy);
            effective.sources[setting.key().index()] = Some(directory);
        }
        effective
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::super::{Mode, Policy};
    use super::*;

    /// Two values besides none for each key.
    const VALUES: [[&str; 2]; Key::ALL.len()] = [
        ["async", "sync"],
        ["2", "majority"],
        ["fail", "degrade"],
        ["3s", "10s"],
        ["bulk", "high"],
        ["on", "off"],
        ["any", "b"],
    ];

    fn settings(choice: &[u8]) -> Settings {
        let mut settings = Settings::default();
        for ((key, values), choice) in Key::ALL.into_iter().zip(VALUES).zip(choice) {
            let value = values.get(usize::from(*choice));
            settings.set(key, value.map(|value| Setting::parse(key, value.as_bytes()).expect("a value")));
        }
        settings
    }

    proptest! {
        #[test]
        fn for_each_key_the_nearest_directory_wins(path in vec(vec(0u8..4, Key::ALL.len()), 0..6)) {
            let path: Vec<Settings> = path.iter().map(|choice| settings(choice)).collect();
            let mut effective = Effective::default();
            for (directory, settings) in path.iter().enumerate() {
                effective = settings.below(&effective, FileId(directory as u64));
            }
            for key in Key::ALL {
                let nearest = path.iter().rposition(|settings| settings.get(key).is_some());
                prop_assert_eq!(effective.sources[key.index()], nearest.map(|directory| FileId(directory as u64)));
                let value = nearest.and_then(|directory| path[directory].get(key).cloned());
                let value = value.unwrap_or_else(|| Setting::of(&Policy::default(), key));
                prop_assert_eq!(Setting::of(&effective.policy, key), value);
            }
            let sync = effective.policy.mode == Mode::Sync;
            prop_assert_eq!(effective.sync_root(), effective.sources[0].filter(|_| sync));
        }
    }

    #[test]
    fn nothing_set_is_the_default() {
        assert!(Settings::default().is_empty());
        assert_eq!(Settings::default().below(&Effective::default(), FileId::ROOT), Effective::default());
    }
}
