//! What breaks: processes, links, the server, clocks and the network.

use lattice_core::system::SystemActor;

use super::World;
use crate::clock::Millis;
use crate::dice::Dice;
use crate::env::{Chances, Event, HostEvent, HostIx, WorldEvent};

impl World {
    pub(super) fn break_something(&mut self) {
        if self.calm || !self.breaks {
            return;
        }
        let random = self.env.dice.index(self.hosts.len());
        let important = self.env.dice.chance(400);
        let host = self.env.watch.strict_owner().filter(|_| important).unwrap_or(random);
        match self.env.dice.below(100) {
            0..18 => self.crash(host, true),
            18..26 => self.crash(host, false),
            26..44 => self.pause(host),
            44..68 => self.cut(host),
            68..75 => self.server_down(),
            75..80 => {
                let by = self.env.dice.within(0, 7_200_000) as i64 - 3_600_000;
                self.hosts[host].clock.jump(by);
            }
            80..88 => {
                for system in SystemActor::ALL {
                    self.hosts[host].trap(&system.id().unwrap(), &mut self.env);
                }
            }
            88..94 => {
                self.env.chances = unkind_chances(&mut self.env.dice);
                let after = self.env.dice.within(500, 8_000);
                self.env.later(after, WorldEvent::Calmer);
            }
            _ => {
                let conn = self.env.links[host].conn;
                self.env.later(1, WorldEvent::ServerNotices(host, conn, "Slow Consumer (Pending Bytes)"));
            }
        }
        let after = self.env.dice.within(300, 9_000);
        self.env.later(after, WorldEvent::Break);
    }

    /// How long something stays broken.
    pub(super) fn broken_for(&mut self) -> Millis {
        let (least, most) = if self.env.dice.chance(400) { (100, 3_000) } else { self.long };
        self.env.dice.within(least, most)
    }

    /// The process dies; `closed`: its machine lives on and closes the connection.
    pub(super) fn crash(&mut self, host: HostIx, closed: bool) {
        if !self.hosts[host].is_up() {
            return;
        }
        let env = &mut self.env;
        env.note(format_args!("h{host} crashes, closed {closed}"));
        let (conn, cut) = (env.links[host].conn, env.links[host].up_cut);
        self.hosts[host].stop(env);
        if closed && !cut {
            let after = env.dice.within(1, 4);
            env.later(after, WorldEvent::ServerNotices(host, conn, "Client Closed"));
        } else {
            self.goes_stale(host);
        }
        let after = self.broken_for();
        self.env.later(after, WorldEvent::Start(host));
    }

    /// Both sides find out sooner or later that nothing comes through.
    pub(super) fn goes_stale(&mut self, host: HostIx) {
        let env = &mut self.env;
        let conn = env.links[host].conn;
        let (first, second) = (env.dice.within(2_000, 15_000), env.dice.within(2_000, 15_000));
        let reason = *env.dice.pick(&["Stale Connection", "Read Error", "Write Error"]);
        env.later(first, WorldEvent::ServerNotices(host, conn, reason));
        env.later(second, WorldEvent::HostNotices(host, conn));
    }

    pub(super) fn pause(&mut self, host: HostIx) {
        if !self.hosts[host].is_up() || self.hosts[host].paused {
            return;
        }
        self.env.note(format_args!("h{host} pauses"));
        self.hosts[host].pause(&mut self.env);
        self.goes_stale(host);
        let after = self.broken_for();
        self.env.later(after, WorldEvent::Resume(host, self.hosts[host].boot));
    }

    pub(super) fn resume(&mut self, host: HostIx, boot: u32) {
        if self.hosts[host].paused && self.hosts[host].boot == boot {
            self.env.note(format_args!("h{host} goes on"));
            self.hosts[host].resume(&mut self.env);
            self.notice_late(host);
        }
    }

    pub(super) fn cut(&mut self, host: HostIx) {
        let env = &mut self.env;
        let (up, down) = *env.dice.pick(&[(true, true), (true, false), (false, true)]);
        let hold = env.dice.chance(500);
        env.note(format_args!("h{host} is cut off: up {up} down {down} hold {hold}"));
        let link = &mut env.links[host];
        (link.up_cut, link.down_cut, link.hold) = (link.up_cut || up, link.down_cut || down, hold);
        self.goes_stale(host);
        let after = self.broken_for();
        self.env.later(after, WorldEvent::Heal(host));
    }

    pub(super) fn heal(&mut self, host: HostIx) {
        self.env.note(format_args!("h{host} is reached again"));
        self.env.heal(host);
        self.notice_late(host);
    }

    /// A host that could not hear it before hears now that the server has closed its connection.
    pub(super) fn notice_late(&mut self, host: HostIx) {
        let link = &self.env.links[host];
        if link.host_sees && !link.server_sees {
            let conn = link.conn;
            self.env.later(2, WorldEvent::HostNotices(host, conn));
        }
    }

    pub(super) fn server_notices(&mut self, host: HostIx, conn: u32, reason: &'static str) {
        let env = &mut self.env;
        let link = &env.links[host];
        let alive = self.hosts[host].is_up() && link.host_sees && !self.hosts[host].paused && !link.up_cut && !link.down_cut;
        let forced = reason.starts_with("Slow Consumer");
        if !self.server.up || link.conn != conn || !link.server_sees || (alive && !forced) {
            return;
        }
        self.server.close(host, reason, env);
        if !env.links[host].down_cut && !self.hosts[host].paused {
            env.later(2, WorldEvent::HostNotices(host, conn));
        }
    }

    pub(super) fn host_notices(&mut self, host: HostIx, conn: u32) {
        let env = &mut self.env;
        let link = &mut env.links[host];
        let alive = link.server_sees && !link.up_cut && !link.down_cut;
        if link.conn != conn || !link.host_sees || alive || self.hosts[host].paused {
            return;
        }
        link.host_sees = false;
        let boot = self.hosts[host].boot;
        env.at(env.now, Event::Host(host, boot, HostEvent::Disconnected));
        let after = env.dice.within(50, 1_000);
        env.later(after, WorldEvent::Connect(host, boot));
    }

    pub(super) fn connect(&mut self, host: HostIx, boot: u32) {
        let env = &mut self.env;
        let machine = &self.hosts[host];
        let link = &env.links[host];
        if machine.boot != boot || !machine.is_up() || link.host_sees {
            return;
        }
        if !self.server.up || link.up_cut || link.down_cut || machine.paused {
            let after = env.dice.within(250, 1_000);
            env.later(after, WorldEvent::Connect(host, boot));
            return;
        }
        if link.server_sees {
            // The server still holds the old connection for alive, and finds out.
            let name = link.name.clone();
            let quick = env.dice.chance(800);
            let (after, reason) =
                if quick { (env.dice.within(0, 20), "Client Closed") } else { (env.dice.within(20, 10_000), "Stale Connection") };
            env.later(after, WorldEvent::Announce(name, reason));
        }
        env.connect(host, machine.connection_name());
        env.note(format_args!("h{host} connected"));
        env.at(env.now + 1, Event::Host(host, boot, HostEvent::Connected));
    }

    pub(super) fn server_down(&mut self) {
        if !self.server.up {
            return;
        }
        let env = &mut self.env;
        env.note(format_args!("server down"));
        self.server.stop(env);
        for host in 0..self.hosts.len() {
            let conn = env.links[host].conn;
            env.later(2, WorldEvent::HostNotices(host, conn));
        }
        let after = env.dice.within(200, 12_000);
        env.later(after, WorldEvent::ServerUp);
    }

    pub(super) fn server_up(&mut self) {
        if !self.server.up {
            self.env.note(format_args!("server up"));
            self.server.up = true;
            for host in 0..self.hosts.len() {
                self.notice_late(host);
            }
        }
    }
}

/// One of several kinds of unkindness.
pub(super) fn unkind_chances(dice: &mut Dice) -> Chances {
    let mixed = Chances {
        loss: dice.below(20),
        twice: dice.below(40),
        overtake: dice.below(50),
        slow: dice.below(50),
        slow_ms: dice.within(5, 500),
        busy: dice.below(100),
        stale: dice.below(400),
        start_fails: dice.below(100),
    };
    match dice.below(5) {
        0 => Chances { loss: dice.within(20, 120), ..mixed },
        // Answers come after whoever waited for them has given up, and what is sent later comes first.
        1 => Chances { overtake: 400, slow: 200, slow_ms: 6_000, ..mixed },
        2 => Chances { busy: 300, stale: 800, ..mixed },
        3 => Chances { start_fails: 400, ..mixed },
        _ => mixed,
    }
}
