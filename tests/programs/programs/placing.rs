//! Places: `<hosts> <count> <expected>` places so many instances in its lattice of so many hosts, which it keeps, and fails
//! if another sum comes out than expected.

use std::cell::RefCell;
use std::collections::BTreeMap;

use programs::BrokerMessage;
use programs::placing::{Placing, Search};

programs::worker!(work);

thread_local! {
    static LATTICES: RefCell<BTreeMap<u64, Placing>> = const { RefCell::new(BTreeMap::new()) };
}

fn work(message: &BrokerMessage) -> Result<(), String> {
    let numbers: Result<Vec<u64>, _> = programs::text(message)?.split(' ').map(str::parse).collect();
    let numbers = numbers.map_err(|error| error.to_string())?;
    let [hosts, count, expected] = numbers.as_slice() else { return Err(format!("no such command: {numbers:?}")) };
    let size = |number: u64| usize::try_from(number).map_err(|error| error.to_string());
    LATTICES.with_borrow_mut(|lattices| {
        if !lattices.contains_key(hosts) {
            lattices.insert(*hosts, Placing::new(size(*hosts)?)?);
        }
        let lattice = lattices.get_mut(hosts).ok_or("no lattice")?;
        let sum = lattice.place(size(*count)?, Search::Ordered);
        if sum == *expected { Ok(()) } else { Err(format!("the sum is {sum} instead of {expected}")) }
    })
}
