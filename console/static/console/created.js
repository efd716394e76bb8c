// The page of a new proxy key hands it to the playground, if that is where one goes.

import { give } from "./handed.js";

document.getElementById("try").addEventListener("click", () => give(document.getElementById("key").textContent));
