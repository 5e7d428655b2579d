//! What `init` and `join` have in common: the arguments of a new site, checked before anything is made.

use std::error::Error;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use super::Usage;
use crate::config::{self, Config, file};
use crate::store_dir::NewStore;

/// A new site.
#[derive(clap::Args, Debug)]
pub struct NewSite {
    /// Configuration file to write; refused if it exists
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// This site's name in the volume
    #[arg(long, value_name = "NAME", value_parser = name)]
    pub site: String,
    /// Directory for this site's replica: absent or empty, on a local file system
    #[arg(long, value_name = "DIR")]
    pub store: PathBuf,
    /// Where to listen for the other sites, IP:PORT
    #[arg(long, value_name = "ADDR", value_parser = config::check_listen)]
    pub listen: SocketAddr,
    /// Where the other sites reach this one, if that isn't what --listen says
    #[arg(long, value_name = "HOST:PORT")]
    pub advertise: Option<String>,
}

/// Checked, and nothing made yet.
pub struct Planned {
    /// What the daemon will be told.
    pub config: Config,
    path: PathBuf,
}

/// For clap: a name of a volume or site.
pub fn name(text: &str) -> Result<String, String> {
    config::check_name(text).map(|()| text.to_owned())
}

impl NewSite {
    /// Refuses whatever can be known to be wrong. `volume`: its name.
    pub fn plan(self, volume: String) -> Result<Planned, Box<dyn Error>> {
        let advertise = config::check_advertise(self.advertise.as_deref(), self.listen)
            .map_err(|why| Usage(format!("--advertise: {why}")))?;
        let store = std::path::absolute(&self.store)?;
        let store = config::check_store(&store).map_err(|why| Usage(format!("--store: {why}")))?;
        let path = std::path::absolute(&self.config)?;
        if path.starts_with(&store) {
            return Err(Usage(format!(
                "--config: {} is inside the store, which must be empty: choose another place",
                path.display()
            ))
            .into());
        }
        file::check_absent(&path)?;
        let config = Config::new(volume, self.site, store, self.listen, advertise);
        file::text(&config)?;
        Ok(Planned { config, path })
    }
}

impl Planned {
    /// Makes the store's directory, lets `fill` fill it, then writes the configuration. What was made is removed if
    /// any of it fails.
    pub fn make<E: Error + 'static>(
        mut self,
        fill: impl FnOnce(&mut Config) -> Result<(), E>,
    ) -> Result<Planned, Box<dyn Error>> {
        let store = NewStore::create(&self.config.store)?;
        fill(&mut self.config)?;
        file::write(&self.path, &self.config)?;
        store.keep();
        Ok(self)
    }

    /// Where the configuration is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}
