//! Addresses that stand for names: the DNS stub gives one to each name, and a
//! connection to it is a connection to the name.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};

/// The range that the addresses are taken from, which no public host has
/// (RFC 2544: benchmarking, 198.18.0.0/15).
const FIRST: u32 = u32::from_be_bytes([198, 18, 0, 0]);
/// Names that are remembered at once; the oldest gives its address to the next.
/// At most 253 bytes each, so at most 2 MiB.
const CAPACITY: u32 = 8192;

/// Names and their addresses.
#[derive(Debug, Default)]
pub struct Names {
    by_name: HashMap<String, u32>,
    by_place: Vec<String>,
    next: u32,
}

impl Names {
    /// The address that stands for `name`.
    pub fn address_of(&mut self, name: &str) -> Ipv4Addr {
        if let Some(place) = self.by_name.get(name) {
            return Self::address(*place);
        }
        let place = self.next;
        self.next = (self.next + 1) % CAPACITY;
        match self.by_place.get_mut(place as usize) {
            Some(old) => {
                self.by_name.remove(old.as_str());
                name.clone_into(old);
            }
            None => self.by_place.push(name.to_owned()),
        }
        self.by_name.insert(name.to_owned(), place);
        Self::address(place)
    }

    /// The name that the address stands for.
    pub fn name_of(&self, address: IpAddr) -> Option<&str> {
        let IpAddr::V4(address) = address.to_canonical() else {
            return None;
        };
        let place = u32::from(address).checked_sub(FIRST + 1)?;
        self.by_place.get(place as usize).map(String::as_str)
    }

    fn address(place: u32) -> Ipv4Addr {
        Ipv4Addr::from(FIRST + 1 + place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_leads_back_to_its_name_until_the_place_is_needed() {
        let mut names = Names::default();
        let first = names.address_of("a.example");
        assert_eq!(names.address_of("a.example"), first);
        assert_eq!(names.name_of(first.into()), Some("a.example"));
        for index in 0..CAPACITY {
            names.address_of(&format!("{index}.example"));
        }
        assert_eq!(names.name_of(first.into()), Some(format!("{}.example", CAPACITY - 1).as_str()));
        assert_ne!(names.address_of("a.example"), first);
        assert!(names.by_name.len() == CAPACITY as usize && names.by_place.len() == CAPACITY as usize);
        assert_eq!(names.name_of([198, 20, 0, 1].into()), None);
    }
}
