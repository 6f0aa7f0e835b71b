/** Where the server is: the folder of this file, so that the page also works under a path prefix of a proxy. */

export const SERVER_URL = new URL(".", import.meta.url).href;
