// Owns how a new proxy key gets from the page that shows it to the playground: in this tab's memory, until it is taken.

const NAME = "aiproxy-handed-key";

export const give = (key) => sessionStorage.setItem(NAME, key);

export function take() {
  const key = sessionStorage.getItem(NAME) ?? "";
  sessionStorage.removeItem(NAME);
  return key;
}
