// Owns how a stream of server-sent events is cut (WHATWG HTML, 9.2.6). Knows nothing of what is in them.

/**
 * Takes text as it comes, in pieces of any size, and gives back the data of each event that is complete.
 * Lines end with LF, CRLF or CR and with nothing else: U+2028, form feed and the like are data.
 */
export class EventStream {
  #rest = "";
  #data = [];

  push(text) {
    const lines = (this.#rest + text).split(/\r\n|\n|\r(?!$)/);
    this.#rest = lines.pop(); // a CR at the very end may be half of a CRLF: it waits, with its line
    const events = [];
    for (const line of lines) {
      if (line !== "") {
        this.#field(line);
      } else if (this.#data.length) {
        events.push(this.#data.join("\n"));
        this.#data = [];
      }
    }
    return events;
  }

  #field(line) {
    const colon = line.indexOf(":");
    const name = colon < 0 ? line : line.slice(0, colon);
    if (name !== "data") return;
    const value = colon < 0 ? "" : line.slice(colon + 1);
    this.#data.push(value.startsWith(" ") ? value.slice(1) : value);
  }
}
