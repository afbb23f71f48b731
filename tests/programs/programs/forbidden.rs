//! Tries every line of the payload (see [`programs::command`]) and answers with a line for each:
//! `<line> => <what came out>` or `<line> => error: <what the host said>`. An empty payload stands for [`EVERYTHING`].

use programs::{BrokerMessage, command};

programs::program!(answer);

/// What no link with `get` and a sensor's subscription allows.
const EVERYTHING: &str = "\
publish lat.default.req.all.ping x
publish lat.default.call.edge-processor x
publish cloud.cmd.NEDGE01 x
publish $SYS.REQ.SERVER.PING x
publish $JS.API.STREAM.DELETE.edge-events x
publish $KV.LAT_default_DESIRED.x x
publish _INBOX.somebody x
publish edge.sensor.elsewhere x
publish edge.result.elsewhere x
publish edge.* x
publish edge..x x
request lat.default.req.all.ping 200 x
request edge.sensor.elsewhere 200 x
open LAT_default_DESIRED
open somebody-else
set key value
delete key
increment key 1
list";

fn answer(message: BrokerMessage) -> Result<Vec<u8>, String> {
    let text = match programs::text(&message)? {
        "" => EVERYTHING,
        text => text,
    };
    let tried = text.lines().map(|line| match command::run(line) {
        Ok(shown) => format!("{line} => {shown}"),
        Err(reason) => format!("{line} => error: {reason}"),
    });
    Ok(tried.collect::<Vec<_>>().join("\n").into_bytes())
}
