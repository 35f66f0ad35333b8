// Answers on their way: each lies in localStorage, with the key that the store knows it by, until it is acknowledged.
// One entry per answer, so two tabs never overwrite each other's; sent one after the other, oldest first, so an undo never
// overtakes what it takes back. The same answer sent by two tabs, or again after a lost reply, is stored once.

let prefix = "";
let owner = "";
let told = () => {};
let busy = false;
let wait = 0;
let timer = 0;
let count = 0;

// elsewhere(answer): another tab of the same person has given it.
export function open(person, tell, elsewhere) {
  prefix = `physique:out:${person}:`;
  owner = person;
  told = tell;
  addEventListener("online", () => soon(0));
  addEventListener("storage", (event) => {
    if (!event.key?.startsWith(prefix)) return;
    if (event.newValue) elsewhere(JSON.parse(event.newValue));
    const left = waiting().length;
    tell(left ? "saving" : "saved", { waiting: left });
  });
  soon(0);
}

// What has not been acknowledged yet, oldest first: [{name, key, kind, payload}].
export function waiting() {
  const names = Object.keys(localStorage).filter((name) => name.startsWith(prefix)).sort();
  return names.map((name) => ({ name, ...JSON.parse(localStorage.getItem(name)) }));
}

export function put(kind, payload) {
  const key = identifier();
  const order = `${String(Date.now()).padStart(15, "0")}.${String(count++).padStart(6, "0")}`;
  localStorage.setItem(`${prefix}${order}:${key}`, JSON.stringify({ key, kind, payload }));
  soon(0);
}

function identifier() {
  if (crypto.randomUUID) return crypto.randomUUID(); // only where the page is served safely
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

function soon(milliseconds) {
  clearTimeout(timer);
  timer = setTimeout(send, milliseconds);
}

async function send() {
  if (busy) return;
  busy = true;
  try {
    for (let left = waiting(); left.length; left = waiting()) {
      told("saving", { waiting: left.length });
      const { name, ...answer } = left[0];
      const stop = await post(name, answer);
      if (stop) return;
    }
    told("saved", { waiting: 0 });
  } finally {
    busy = false;
    if (waiting().length && !wait) soon(0);
  }
}

async function post(name, answer) {
  let reply;
  try {
    reply = await fetch("/api/answers", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ ...answer, person: owner }), // the cookie is the browser's: another link may have been opened since
      signal: AbortSignal.timeout(20000),
      keepalive: true, // the last answer arrives even if the page is closed at once
    });
  } catch {
    return later("offline");
  }
  if (reply.ok) {
    const saved = await reply.json().catch(() => ({}));
    if (saved.saved !== answer.key) return later("offline"); // some proxy's own page
    localStorage.removeItem(name);
    wait = 0;
    return false;
  }
  if (reply.status === 401) return later("stopped");
  if (reply.status === 412) return later("other");
  if ([404, 409, 413, 415, 422].includes(reply.status)) {
    const why = (await reply.json().catch(() => ({}))).error ?? reply.status;
    localStorage.removeItem(name);
    localStorage.setItem(name.replace("physique:out:", "physique:refused:"), JSON.stringify({ ...answer, why }));
    told("refused", { why, answer });
    return false;
  }
  return later("offline");
}

function later(state) {
  wait = Math.min(30000, Math.max(1000, wait * 2));
  told(state, { waiting: waiting().length }); // also what was answered while this one was on its way
  soon(wait);
  return true;
}
