//! `belljar image`.

use clap::{Args, Subcommand};

use super::{print, surroundings};
use crate::backend::ImagePlace;
use crate::config::Dirs;
use crate::error::{Context, Error, Kind, Result, printable};
use crate::image::{From, Images, Progress, Reference, Show, UnpackLimits, has_podman};
use crate::plan::{self, Request, parse_size};

/// The images that runs can have as root: unpacked once, shared read-only.
#[derive(Debug, Args)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Fetch an image from its registry, by podman or skopeo
    Pull(Import),
    /// Take an image that is on this machine: podman's or buildah's store, oci:DIR, oci-archive:FILE, docker-archive:FILE
    Import(Import),
    /// List the images of the cache
    List {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Remove an image of the cache; not one that a live run has
    Remove {
        /// A name, or an id or the beginning of one
        #[arg(value_name = "REF")]
        reference: String,
    },
}

#[derive(Debug, Args)]
struct Import {
    /// The image, for example localhost/agent:latest
    #[arg(value_name = "REF")]
    reference: String,
    /// Bytes of all its files, at most [default: 32g]
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    max_size: Option<u64>,
    /// Entries of all its layers, at most [default: 1000000]
    #[arg(long, value_name = "NUMBER")]
    max_files: Option<u64>,
    /// Show no progress
    #[arg(short, long)]
    quiet: bool,
}

impl Arguments {
    /// Does what was asked.
    pub fn execute(self) -> Result<u8> {
        let (_, dirs) = surroundings()?;
        let images = Images::new(&dirs);
        match self.command {
            Command::Pull(import) => import.execute(&images, From::Registry),
            Command::Import(import) => import.execute(&images, From::Here),
            Command::List { json } => list(&images, json),
            Command::Remove { reference } => {
                let removed = images.remove(&parse(&reference)?)?;
                print(&format!("{}\n", removed.id))?;
                Ok(0)
            }
        }
    }
}

impl Import {
    fn execute(self, images: &Images, from: From) -> Result<u8> {
        let reference = parse(&self.reference)?;
        match (&reference, from) {
            (Reference::Name(_), _) => {}
            (Reference::Id(_), From::Here) => {}
            (_, From::Here) => {}
            _ => {
                return Err(Error::usage(format!("image pull {}: only a name has a registry", self.reference))
                    .hint(format!("belljar image import '{}'", self.reference)));
            }
        }
        let mut limits = UnpackLimits::default();
        limits.bytes = self.max_size.unwrap_or(limits.bytes);
        limits.entries = self.max_files.unwrap_or(limits.entries);
        let progress = Progress::new(if self.quiet { Show::Never } else { Show::OnTerminal });
        let image = images.import(&reference, from, limits, &progress)?;
        drop(progress);
        print(&format!("{}\n", image.id))?;
        Ok(0)
    }
}

fn parse(typed: &str) -> Result<Reference> {
    let here = std::env::current_dir().refuse(|| "read the current directory".to_owned())?;
    Reference::parse(typed, &here)
}

fn list(images: &Images, json: bool) -> Result<u8> {
    let found = images.list()?;
    if json {
        let text = serde_json::to_string_pretty(&found).step(|| "render the images".to_owned())?;
        print(&format!("{text}\n"))?;
        return Ok(0);
    }
    let mut text = String::new();
    for image in &found {
        let names: Vec<String> = image.names.iter().map(|name| printable(name)).collect();
        let (id, size) = (&image.id.digits()[..12], image.bytes >> 20);
        let names = if names.is_empty() { "(no name)".to_owned() } else { names.join(", ") };
        text += &format!("{id}  {size:>6} MiB  {:>7} files  {}  {names}\n", image.entries, image.imported);
    }
    print(&text)?;
    Ok(0)
}

/// The plan of the request; the image that it wants is brought into the cache
/// first when it is not there.
pub fn plan_with_image(request: &Request, caller: &crate::config::Caller, dirs: &Dirs) -> Result<plan::Resolved> {
    match plan::build(request, caller, dirs) {
        Err(error) if error.kind == Kind::NoImage => {
            let wanted = parse(&plan::wanted_image(request, dirs)?.ok_or(error)?)?;
            let mut request = request.clone();
            if has_podman(&wanted) {
                request.image_place = ImagePlace::OnlyPodman;
            }
            let progress = Progress::new(Show::OnTerminal);
            Images::new(dirs).import(&wanted, From::Anywhere, UnpackLimits::default(), &progress)?;
            drop(progress);
            plan::build(&request, caller, dirs)
        }
        planned => planned,
    }
}
